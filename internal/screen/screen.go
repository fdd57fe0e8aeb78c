// Package screen makes PNGs of what VMs show: of the picture that a hypervisor takes
// of a display, and of the text of a serial console, drawn as a terminal would.
//
// What it reads was made by a guest: sizes are bounded, and nothing of a text is
// obeyed but its line ends.
package screen

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"strings"
)

// mostPixels bounds a picture: 4096 × 2160.
const mostPixels = 4096 * 2160

// PNG returns a picture as PNG, which is given as PNG or as PPM with 8 bits a
// colour. One that is wider than maxWidth is made smaller.
func PNG(picture []byte, maxWidth int) ([]byte, error) {
	img, err := decode(picture)
	if err != nil {
		return nil, fmt.Errorf("read a picture: %w", err)
	}
	return encode(shrink(img, maxWidth))
}

func decode(picture []byte) (image.Image, error) {
	if !bytes.HasPrefix(picture, []byte("P6")) {
		config, err := png.DecodeConfig(bytes.NewReader(picture))
		if err != nil {
			return nil, err
		}
		if config.Width*config.Height > mostPixels {
			return nil, errors.New("it is too big")
		}
		return png.Decode(bytes.NewReader(picture))
	}
	in := bytes.NewReader(picture[2:])
	var width, height, most int
	if _, err := fmt.Fscan(in, &width, &height, &most); err != nil {
		return nil, err
	}
	if _, err := in.ReadByte(); err != nil { // the one blank before the pixels
		return nil, err
	}
	pixels := picture[len(picture)-in.Len():]
	if width <= 0 || height <= 0 || most != 255 || width > mostPixels/height || len(pixels) < 3*width*height {
		return nil, fmt.Errorf("it says that it has %d × %d pixels up to %d, in %d bytes", width, height, most, len(pixels))
	}
	img := image.NewNRGBA(image.Rect(0, 0, width, height))
	for i := range width * height {
		copy(img.Pix[4*i:], pixels[3*i:3*i+3])
		img.Pix[4*i+3] = 255
	}
	return img, nil
}

// shrink takes the mean of whole squares of pixels.
func shrink(img image.Image, maxWidth int) image.Image {
	b := img.Bounds()
	by := (b.Dx() + maxWidth - 1) / maxWidth
	if by <= 1 {
		return img
	}
	small := image.NewNRGBA(image.Rect(0, 0, b.Dx()/by, b.Dy()/by))
	for y := range small.Rect.Dy() {
		for x := range small.Rect.Dx() {
			var sum [3]uint32
			for dy := range by {
				for dx := range by {
					r, g, blue, _ := img.At(b.Min.X+x*by+dx, b.Min.Y+y*by+dy).RGBA()
					sum[0], sum[1], sum[2] = sum[0]+r>>8, sum[1]+g>>8, sum[2]+blue>>8
				}
			}
			n := uint32(by * by)
			small.SetNRGBA(x, y, color.NRGBA{uint8(sum[0] / n), uint8(sum[1] / n), uint8(sum[2] / n), 255})
		}
	}
	return small
}

func encode(img image.Image) ([]byte, error) {
	var out bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	if err := encoder.Encode(&out, img); err != nil {
		return nil, fmt.Errorf("write a picture: %w", err)
	}
	return out.Bytes(), nil
}

// The size of a terminal, in characters, and of a character, in pixels.
const (
	columns, rows = 100, 30
	charW, charH  = 6, 10
	margin        = 6
)

// Text draws the end of a text as a terminal of 100 × 30 characters shows it.
func Text(text string) ([]byte, error) {
	lines := last(text)
	palette := color.Palette{color.NRGBA{0x1b, 0x1f, 0x24, 0xff}, color.NRGBA{0xd6, 0xde, 0xe6, 0xff}}
	img := image.NewPaletted(image.Rect(0, 0, columns*charW+2*margin, rows*charH+2*margin), palette)
	for y, line := range lines {
		for x, r := range line {
			draw(img, margin+x*charW, margin+y*charH, r)
		}
	}
	return encode(img)
}

func draw(img *image.Paletted, x, y int, r rune) {
	if r < ' ' || r > '~' {
		r = '?'
	}
	for column, bits := range font[r-' '] {
		for row := range 8 {
			if bits>>row&1 == 1 {
				img.SetColorIndex(x+column, y+row, 1)
			}
		}
	}
}

// last returns the last lines of a text as they fit on a terminal, without what would
// move its cursor or change its colours.
func last(text string) [][]rune {
	var lines [][]rune
	for line := range strings.SplitSeq(Plain(text), "\n") {
		runes := []rune(line)
		for len(runes) > columns {
			lines, runes = append(lines, runes[:columns]), runes[columns:]
		}
		lines = append(lines, runes)
	}
	for len(lines) > 0 && len(lines[len(lines)-1]) == 0 {
		lines = lines[:len(lines)-1]
	}
	return lines[max(0, len(lines)-rows):]
}

// Plain is a console's text without what would move a cursor or change colours.
func Plain(text string) string {
	var b strings.Builder
	text = strings.ToValidUTF8(text, "?")
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == 0x1b:
			i += escape(text[i+1:])
		case c == '\t':
			b.WriteString("    ")
		case c == '\n' || c >= ' ' && c != 0x7f:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// escape is how long the sequence is that follows an escape.
func escape(text string) int {
	if text == "" {
		return 0
	}
	switch text[0] {
	case '[': // up to a letter
		for i := 1; i < len(text); i++ {
			if text[i] >= '@' && text[i] <= '~' {
				return i + 1
			}
		}
		return len(text)
	case ']': // up to a bell, or to an escape with a backslash
		for i := 1; i < len(text); i++ {
			if text[i] == 7 {
				return i + 1
			}
			if text[i] == 0x1b {
				return min(i+2, len(text))
			}
		}
		return len(text)
	case '(', ')', '#':
		return min(2, len(text))
	}
	return 1
}
