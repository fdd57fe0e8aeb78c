package cli

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// keyFlags are those of `vault key`; each action takes some of them.
type keyFlags struct {
	key         string
	passphrases []string // files
	purpose     backstay.RecipientPurpose
	label       string
	force       bool
}

// keyActions are what can be done with a vault's keys, with the flags that each takes.
var keyActions = map[string][]string{
	"list-recipients":  {},
	"rotate":           {"passphrase-file"},
	"add-recipient":    {"passphrase-file", "purpose", "label"},
	"remove-recipient": {"passphrase-file", "force", "yes"},
	"escrow-check":     {"key", "passphrase-file"},
}

func (a *app) vaultKeyCommand() *cobra.Command {
	f := keyFlags{purpose: backstay.ForPerson}
	c := &cobra.Command{
		Use:   "key VAULT rotate|add-recipient|remove-recipient|list-recipients|escrow-check [RECIPIENT]",
		Short: "See and change who can open a vault, and prove that a key does",
		Long: "list-recipients   who can open the vault, and what is wrong with its keys on the storage units\n" +
			"rotate            seal what is new with a new key; nothing is written again, deduplication goes on\n" +
			"add-recipient     let one more open the vault: a public age key (age1…, age1pq1…, or a plugin's), or without\n" +
			"                  RECIPIENT a passphrase\n" +
			"remove-recipient  take one out, by id, label or public key, and rotate. Whoever it was may have kept the keys of\n" +
			"                  before and can read what was sealed with them\n" +
			"escrow-check      prove from the storage units alone that a recovery key or a passphrase opens the vault and that\n" +
			"                  a recovery point decodes with it\n\n" +
			"Keys and passphrases are read from files, from standard input (-), or asked for on a terminal; never from arguments.\n" +
			"A vault with passphrase recipients is rotated with all their passphrases.",
		Example: "  backstay vault key default list-recipients\n" +
			"  backstay vault key default rotate\n" +
			"  backstay vault key default add-recipient age1… --purpose recovery --label safe\n" +
			"  backstay vault key default add-recipient --passphrase-file words.txt --purpose recovery\n" +
			"  backstay vault key default remove-recipient bob\n" +
			"  backstay vault key default escrow-check --key recovery.key",
		Args: cobra.RangeArgs(2, 3),
	}
	c.RunE = a.call(func(ctx context.Context, cl *client.Client, args []string) error {
		if err := f.fits(c, args); err != nil {
			return err
		}
		return a.vaultKey(ctx, cl, args, f)
	})
	c.Flags().StringVar(&f.key, "key", "", "file with the key that is to be proved; - for standard input")
	c.Flags().StringArrayVar(&f.passphrases, "passphrase-file", nil, "file with a passphrase in its first line; - for standard input")
	c.Flags().Var(oneOf(&f.purpose, backstay.ForPerson, backstay.ForRecovery, backstay.ForServer), "purpose", "what the new recipient is for")
	c.Flags().StringVar(&f.label, "label", "", "name of the new recipient, for people")
	c.Flags().BoolVar(&f.force, "force", false, "also remove the last recovery recipient: the vault is lost with its server then")
	return a.yesFlag(c)
}

// fits refuses what an action does not take.
func (f keyFlags) fits(c *cobra.Command, args []string) error {
	allowed, ok := keyActions[args[1]]
	if !ok {
		return usageError(c, fmt.Errorf("a vault's keys cannot be told to %q", args[1]))
	}
	for _, name := range []string{"key", "passphrase-file", "purpose", "label", "force", "yes"} {
		if c.Flags().Changed(name) && !slices.Contains(allowed, name) {
			return usageError(c, fmt.Errorf("%s does not take --%s", args[1], name))
		}
	}
	named := len(args) == 3
	switch {
	case !named && args[1] == "remove-recipient":
		return usageError(c, fmt.Errorf("%s needs a RECIPIENT: an id, a label or a public key", args[1]))
	case named && args[1] != "add-recipient" && args[1] != "remove-recipient":
		return usageError(c, fmt.Errorf("%s takes no RECIPIENT", args[1]))
	}
	if args[1] == "add-recipient" && named && len(f.passphrases) > 0 {
		return usageError(c, fmt.Errorf("a recipient is a public key or a passphrase, not both"))
	}
	if named && strings.Contains(strings.ToUpper(args[2]), "SECRET-KEY") {
		return backstay.Errorf(backstay.CodeUsage, "a secret key was given where its public side is wanted").
			Becausef("arguments can be seen by others on this machine: the key is not secret any more").
			Do("make another key, and give the public side, which `age-keygen -y FILE` prints")
	}
	return nil
}

func (a *app) vaultKey(ctx context.Context, c *client.Client, args []string, f keyFlags) error {
	vault := backstay.VaultName(args[0])
	switch args[1] {
	case "list-recipients":
		keys, err := c.VaultKeys(ctx, vault)
		return a.emitKeys(keys, err, "")
	case "rotate":
		passphrases, err := a.readPassphrases(f.passphrases)
		if err != nil {
			return err
		}
		keys, err := c.RotateVaultKeys(ctx, vault, api.RotateKeysRequest{Passphrases: passphrases})
		return a.emitKeys(keys, err, "what is new is sealed with the keys of epoch %d")
	case "add-recipient":
		return a.addRecipient(ctx, c, args, f)
	case "remove-recipient":
		if err := a.confirm("take the recipient %s out of the vault %s, and rotate its keys", args[2], vault); err != nil {
			return err
		}
		passphrases, err := a.readPassphrases(f.passphrases)
		if err != nil {
			return err
		}
		keys, err := c.RemoveVaultRecipient(ctx, vault, api.RemoveRecipientRequest{Recipient: args[2], Passphrases: passphrases, Force: f.force})
		return a.emitKeys(keys, err, "what is new is sealed with the keys of epoch %d; whoever was removed may have kept those of before")
	default:
		return a.escrowCheck(ctx, c, vault, f)
	}
}

// emitKeys prints who can open a vault; done has the epoch in it.
func (a *app) emitKeys(keys backstay.VaultKeys, err error, done string) error {
	if err != nil {
		return err
	}
	if done != "" {
		a.note(done, keys.Epoch)
	}
	return a.emit(keys, func(w io.Writer) {
		row(w, "vault", keys.Vault)
		row(w, "key id", keys.KeyID)
		row(w, "generation", keys.Generation)
		row(w, "epoch", keys.Epoch)
		for _, p := range keys.Problems {
			row(w, "problem", oneLine(p))
		}
		row(w, "")
		row(w, "ID", "PURPOSE", "KIND", "LABEL", "RECIPIENT")
		for _, r := range keys.Recipients {
			row(w, r.ID, r.Purpose, r.Kind, r.Label, r.Recipient)
		}
	})
}

func (a *app) addRecipient(ctx context.Context, c *client.Client, args []string, f keyFlags) error {
	r := api.AddRecipientRequest{Purpose: f.purpose, Label: f.label}
	if len(args) == 3 {
		r.Recipient = args[2]
	} else {
		passphrase, err := a.newPassphrase(f.passphrases)
		if err != nil {
			return err
		}
		r.Passphrase = passphrase
	}
	keys, err := c.AddVaultRecipient(ctx, backstay.VaultName(args[0]), r)
	return a.emitKeys(keys, err, "")
}

func (a *app) escrowCheck(ctx context.Context, c *client.Client, vault backstay.VaultName, f keyFlags) error {
	var r api.EscrowCheckRequest
	var err error
	switch {
	case f.key != "" && len(f.passphrases) > 0 || len(f.passphrases) > 1:
		return backstay.Errorf(backstay.CodeUsage, "one key is proved at a time").Becausef("several were given").Do("say --key FILE or --passphrase-file FILE")
	case len(f.passphrases) == 1:
		r.Passphrase, err = a.readPassphrase(f.passphrases[0])
	case f.key != "":
		r.Key, err = a.readSecret(f.key)
	default:
		r.Key, err = a.askSecret("The recovery key: ")
	}
	if err != nil {
		return err
	}
	out, err := c.CheckEscrow(ctx, vault, r)
	if err != nil {
		return err
	}
	return a.emit(out, func(w io.Writer) { escrowTable(w, out) })
}

func escrowTable(w io.Writer, out backstay.EscrowResult) {
	row(w, "opens the vault", map[bool]string{true: "yes", false: "no"}[out.OK])
	row(w, "vault", out.Vault)
	row(w, "recipient", strings.TrimSpace(fmt.Sprintf("%s %s %s", out.Recipient.ID, out.Recipient.Purpose, out.Recipient.Label)))
	row(w, "generation", out.Generation)
	row(w, "epoch", out.Epoch)
	row(w, "copies of the key", fmt.Sprintf("%d of %d", out.Copies, out.Want))
	for _, object := range out.Checked {
		row(w, "decoded", object)
	}
	for _, p := range out.Problems {
		row(w, "problem", oneLine(p))
	}
}

// readSecret reads a secret from a file or from standard input.
func (a *app) readSecret(path string) (string, error) {
	from := a.Stdin
	if path != "-" {
		f, err := a.openSecret(path)
		if err != nil {
			return "", backstay.Errorf(backstay.CodeUsage, "the secret cannot be read").Because(err).Do("name the file that holds it")
		}
		defer f.Close()
		from = f
	}
	data, err := io.ReadAll(io.LimitReader(from, secretLimit))
	if err != nil {
		return "", backstay.Errorf(backstay.CodeUsage, "the secret cannot be read").Because(err)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return "", backstay.Errorf(backstay.CodeUsage, "there is no secret in %s", path).Becausef("it is empty")
	}
	return string(data), nil
}

// openSecret opens a file with a secret, and warns if it is one for others too.
func (a *app) openSecret(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		a.note("warning: %s can be read by others on this machine: chmod 600 it", path)
	}
	return f, nil
}

// secretLimit is the largest secret that is read, in bytes.
const secretLimit = 64 << 10

// readPassphrase reads the first line of a file.
func (a *app) readPassphrase(path string) (string, error) {
	text, err := a.readSecret(path)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(text, "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

func (a *app) readPassphrases(paths []string) ([]string, error) {
	var out []string
	for _, path := range paths {
		p, err := a.readPassphrase(path)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// newPassphrase reads a passphrase that shall be used from now on: from a file,
// or twice from a terminal.
func (a *app) newPassphrase(paths []string) (string, error) {
	if len(paths) > 1 {
		return "", backstay.Errorf(backstay.CodeUsage, "one passphrase makes one recipient").Becausef("%d were given", len(paths))
	}
	if len(paths) == 1 {
		return a.readPassphrase(paths[0])
	}
	first, err := a.askSecret("The new passphrase: ")
	if err != nil || !a.IsTerminal(a.Stdin) {
		return first, err
	}
	again, err := a.askSecret("Once more: ")
	if err == nil && again != first {
		err = backstay.Errorf(backstay.CodeUsage, "the two passphrases differ").Do("try again")
	}
	return first, err
}

// askSecret asks for a line on a terminal without showing it; elsewhere there
// must be a file.
func (a *app) askSecret(prompt string) (string, error) {
	if !a.IsTerminal(a.Stdin) {
		return "", backstay.Errorf(backstay.CodeUsage, "a secret is missing").Becausef("nobody can be asked: stdin is not a terminal").
			Do("name a file with --key or --passphrase-file; - is standard input")
	}
	fmt.Fprint(a.Stderr, prompt)
	defer fmt.Fprintln(a.Stderr)
	var line string
	var err error
	if f, ok := a.Stdin.(*os.File); ok {
		var data []byte
		data, err = term.ReadPassword(int(f.Fd()))
		line = string(data)
	} else {
		line, err = bufio.NewReader(a.Stdin).ReadString('\n')
		line = strings.TrimRight(line, "\r\n")
	}
	if line == "" {
		return "", backstay.Errorf(backstay.CodeCancelled, "nothing was done").Because(err).Do("type the secret, or name a file that holds it")
	}
	return line, nil
}

// openers are who shall open a new vault besides its server.
type openers struct {
	recipients, passphrases []string
	noRecoveryKey, force    bool
}

func (o *openers) flags(c *cobra.Command) {
	c.Flags().StringArrayVar(&o.recipients, "recipient", nil, "public age key of a recovery recipient; may be repeated")
	c.Flags().StringArrayVar(&o.passphrases, "passphrase-file", nil, "file with a recovery passphrase in its first line; - for standard input")
	c.Flags().BoolVar(&o.noRecoveryKey, "no-recovery-key", false, "make no recovery key; needs another recovery recipient, or --force")
	c.Flags().BoolVar(&o.force, "force", false, "make a vault without any recovery recipient: it is lost with its server")
}

// addOpeners puts recipients into a request for a new vault.
func (a *app) addOpeners(r *api.CreateVaultRequest, o openers) error {
	r.NoRecoveryKey, r.Force = o.noRecoveryKey, o.force
	for _, text := range o.recipients {
		r.Recipients = append(r.Recipients, api.AddRecipientRequest{Recipient: text, Purpose: backstay.ForRecovery})
	}
	passphrases, err := a.readPassphrases(o.passphrases)
	for _, p := range passphrases {
		r.Recipients = append(r.Recipients, api.AddRecipientRequest{Passphrase: p, Purpose: backstay.ForRecovery})
	}
	return err
}
