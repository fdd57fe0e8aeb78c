package screen_test

import (
	"bytes"
	"fmt"
	"image/png"
	"strings"
	"testing"

	"github.com/backstay/backstay/internal/screen"
)

func TestAPictureOfADisplayBecomesAPNGThatFits(t *testing.T) {
	ppm := []byte(fmt.Sprintf("P6\n%d %d\n255\n", 64, 4))
	for i := range 64 * 4 {
		ppm = append(ppm, byte(i), 10, 200)
	}
	for width, want := range map[int]int{64: 64, 32: 32, 100: 64} {
		out, err := screen.PNG(ppm, width)
		if err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(bytes.NewReader(out))
		if err != nil || img.Bounds().Dx() != want {
			t.Errorf("at most %d wide: %v, %v", width, img.Bounds(), err)
		}
	}
	again, err := screen.PNG(mustText(t, "x"), 4096)
	if err != nil || len(again) == 0 {
		t.Errorf("a PNG is not taken: %v", err)
	}
}

func TestAPictureThatLiesIsRefused(t *testing.T) {
	for _, picture := range []string{"", "P6", "P6\n1 1\n255\n", "P6\n4000000 4000000\n255\nx", "P6\n-1 5\n255\nxxxxxxxxxxxxxxxxxx", "P6\n1 1\n65535\nxxxxxx", "\x89PNG\r\n\x1a\n"} {
		if _, err := screen.PNG([]byte(picture), 100); err == nil {
			t.Errorf("%q was taken", picture)
		}
	}
}

func TestAConsoleIsShownWithoutWhatItWouldDoToATerminal(t *testing.T) {
	got := screen.Plain("\x1b[1;31mred\x1b[0m\x1b]0;title\x07 ok\r\n\x1b(Bnext\x1b")
	if got != "red ok\nnext" {
		t.Errorf("%q", got)
	}
	long := mustText(t, strings.Repeat("a very long line ", 5000))
	img, err := png.Decode(bytes.NewReader(long))
	if err != nil || img.Bounds().Dx() > 640 || img.Bounds().Dy() > 320 {
		t.Errorf("%v, %v", img.Bounds(), err)
	}
}

func mustText(t *testing.T, text string) []byte {
	t.Helper()
	out, err := screen.Text(text)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
