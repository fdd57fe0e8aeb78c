package backstay

// The codes. Each has one row in the table below; the table is the single
// source of its kind and of the action that is proposed when the place that
// reports it has nothing better to say.
const (
	CodeInternal        Code = "internal"
	CodeUsage           Code = "usage"
	CodeConfig          Code = "config-invalid"
	CodeNotSignedIn     Code = "not-signed-in"
	CodeNotAllowed      Code = "not-allowed"
	CodeServerAway      Code = "server-unreachable"
	CodeUnknownVM       Code = "unknown-vm"
	CodeUnknownPoint    Code = "unknown-point"
	CodeUnknownVault    Code = "unknown-vault"
	CodeUnknownPolicy   Code = "unknown-policy"
	CodeUnknownHost     Code = "unknown-host"
	CodeUnknownJob      Code = "unknown-job"
	CodeUnknownToken    Code = "unknown-token"
	CodeNoSuchRecipient Code = "unknown-recipient"
	CodeAmbiguousVM     Code = "ambiguous-vm"
	CodeExists          Code = "already-exists"
	CodeConflict        Code = "conflict"
	CodeNotProtected    Code = "not-protected"
	CodeNoDisks         Code = "no-disk-to-back-up"
	CodeDiskNotPossible Code = "disk-not-possible"
	CodeVMNotPossible   Code = "vm-not-possible"
	CodePreflight       Code = "preflight-refused"
	CodeNotRestorable   Code = "point-not-restorable"
	CodeNoSpace         Code = "no-space"
	CodeHostAway        Code = "host-unreachable"
	CodeHypervisor      Code = "hypervisor-failed"
	CodeSnapshotFailed  Code = "snapshot-failed"
	CodeTransferFailed  Code = "transfer-failed"
	CodeValidateFailed  Code = "validate-failed"
	CodeVaultAway       Code = "vault-unreachable"
	CodeVaultReadOnly   Code = "vault-read-only"
	CodeVaultFull       Code = "vault-full"
	CodeVaultKey        Code = "vault-key-wrong"
	CodeVaultKeyOld     Code = "vault-key-outdated"
	CodeVaultRolledBack Code = "vault-rolled-back"
	CodeNoRecovery      Code = "no-recovery-recipient"
	CodeDamaged         Code = "data-damaged"
	CodeReclaimStopped  Code = "reclaim-stopped"
	CodeRestoreFailed   Code = "restore-failed"
	CodeCreateVMFailed  Code = "create-vm-failed"
	CodeStartFailed     Code = "vm-start-failed"
	CodeNotUp           Code = "vm-not-up"
	CodeLayerInUse      Code = "layer-in-use"
	CodeCancelled       Code = "cancelled"
	CodeJobEnded        Code = "job-already-ended"
	CodeUnfit           Code = "host-not-ready"
	CodeUnitUnfit       Code = "unit-not-usable"
	CodeJobCrashes      Code = "job-keeps-crashing"
	CodeCatalogNewer    Code = "catalogue-too-new"
	CodeTooDeep         Code = "layers-too-deep"
	CodeInconsistent    Code = "consistency-not-reached"
	CodeUnknownGroup    Code = "unknown-group"
	CodeHookConfig      Code = "hook-config-incorrect"
	CodeHookPermission  Code = "hook-permission"
	CodeHookMissing     Code = "hook-not-found"
	CodeHookFailed      Code = "hook-failed"
	CodeHookTimeout     Code = "hook-timed-out"
	CodeHookForbidden   Code = "hook-exec-forbidden"
	CodeCheckpointLost  Code = "checkpoint-lost"
	CodeGuestBusy       Code = "guest-too-busy"
	CodeVMHeld          Code = "vm-disks-held"
	CodeSafetyPoint     Code = "safety-point-failed"
	CodeCannotUndo      Code = "cannot-undo"
	// Of the checks before a restore, each with its own way out.
	CodeNameTaken       Code = "name-taken"
	CodeUUIDTaken       Code = "uuid-taken"
	CodeMACInUse        Code = "mac-in-use"
	CodeDiskInUse       Code = "disk-in-use"
	CodeFileExists      Code = "file-exists"
	CodeFolderMissing   Code = "folder-missing"
	CodeNetworkMissing  Code = "network-missing"
	CodeNetworkUnknown  Code = "network-not-in-point"
	CodePoolMissing     Code = "pool-missing"
	CodeMachineMissing  Code = "machine-type-missing"
	CodeEmulatorMissing Code = "emulator-missing"
	CodeKVMMissing      Code = "acceleration-missing"
	CodeCPUMode         Code = "cpu-mode-missing"
	CodeCPUFeature      Code = "cpu-feature-missing"
	CodeFirmwareMissing Code = "firmware-missing"
	CodeBootFileMissing Code = "boot-file-missing"
	CodeTPMMissing      Code = "tpm-missing"
	CodeNoMemory        Code = "no-memory"
	CodeNotConnected    Code = "host-not-connected"
	CodeTierMissing     Code = "tier-not-available"
	CodeVaultUnreadable Code = "vault-not-readable"
	CodePartial         Code = "point-lacks-disks"
	CodeEncrypted       Code = "encrypted-disk"
	CodeVMMissing       Code = "vm-missing"
	CodeNotShutOff      Code = "vm-not-shut-off"
	CodeSavedMemory     Code = "saved-memory"
	CodeSecretMissing   Code = "secret-missing"
	CodeDiskUnknown     Code = "disk-not-in-point"
	CodeSecretDiffers   Code = "secret-differs"
	CodeKeyServiceAway  Code = "key-service-unreachable"
	CodeKeyDenied       Code = "key-service-denied"
	CodeNoTemplate      Code = "no-template"
	CodeDiskChanged     Code = "restored-disk-changed"
	CodeAntiAffinity    Code = "anti-affinity"
	CodeHostGroup       Code = "host-not-in-group"
	CodeDeviceUnfit     Code = "device-not-usable"
	CodeDeployFailed    Code = "deploy-failed"
	CodeImageUnfit      Code = "image-not-possible"
	CodeUnknownSession  Code = "unknown-session"
	CodeSessionEnded    Code = "session-ended"
	CodeSessionLimit    Code = "too-many-sessions"
	CodeUnknownVolume   Code = "unknown-volume"
	CodeUnknownFile     Code = "unknown-file"
	CodeVolumeLocked    Code = "volume-locked"
	CodeVolumeKey       Code = "volume-key-wrong"
	CodeVolumeUnread    Code = "volume-unreadable"
	CodeFileUnfit       Code = "file-not-possible"
	CodeMachineFailed   Code = "small-machine-failed"
	CodePutFailed       Code = "put-failed"
	CodeNotIndexed      Code = "not-indexed"
	CodeUnknownUnit     Code = "unknown-unit"
	CodeUnitInUse       Code = "unit-in-use"
	CodeUnknownRegion   Code = "unknown-region"
	CodeRegionAway      Code = "region-unreachable"
	CodePairing         Code = "pairing-refused"
	CodeRegionQuota     Code = "region-quota-reached"
	CodeReplicaRefused  Code = "replica-refused"
	CodeUnknownDrill    Code = "unknown-drill"
	CodeDrillFailed     Code = "drill-failed"
)

type codeEntry struct {
	kind   Kind
	action string
}

var codes = map[Code]codeEntry{
	CodeInternal:        {KindInternal, "look for this request in the server's log, and report it with the lines around it"},
	CodeUsage:           {KindUsage, "see `--help` of the command"},
	CodeConfig:          {KindUsage, "correct the line that is named and start again"},
	CodeNotSignedIn:     {KindNotAllowed, "give a token: --token, BACKSTAY_TOKEN, or the client configuration"},
	CodeNotAllowed:      {KindNotAllowed, "use a token with a role that has this right, or ask an owner"},
	CodeServerAway:      {KindUnreachable, "see that `backstay server` runs and that --server names its address"},
	CodeUnknownVM:       {KindNotFound, "list the VMs with `backstay vm list`"},
	CodeUnknownPoint:    {KindNotFound, "list the recovery points with `backstay point list`"},
	CodeUnknownVault:    {KindNotFound, "list the vaults with `backstay vault list`"},
	CodeUnknownPolicy:   {KindNotFound, "list the policies with `backstay policy list`"},
	CodeUnknownHost:     {KindNotFound, "list the hosts with `backstay host list`"},
	CodeUnknownJob:      {KindNotFound, "list the jobs with `backstay job list`"},
	CodeUnknownToken:    {KindNotFound, "list the tokens with `backstay token list`"},
	CodeNoSuchRecipient: {KindNotFound, "list them with `backstay vault key VAULT list-recipients`"},
	CodeAmbiguousVM:     {KindUsage, "say which one is meant: HOST/NAME"},
	CodeExists:          {KindRefused, "choose another name"},
	CodeConflict:        {KindRefused, "wait for the job that is named, or cancel it"},
	CodeNotProtected:    {KindRefused, "protect it first: `backstay protect VM --policy P --vault V`"},
	CodeNoDisks:         {KindRefused, "see `backstay vm show VM` for the reason of each disk"},
	CodeDiskNotPossible: {KindRefused, "leave the disk out with --exclude-disk, or change it as the cause says"},
	CodeVMNotPossible:   {KindRefused, "change the VM as the cause says, and protect it then"},
	CodePreflight:       {KindRefused, "change what the list names, and try again"},
	CodeNotRestorable:   {KindRefused, "see `backstay point restores POINT` for what is possible"},
	CodeNoSpace:         {KindRefused, "free space there, or choose another pool"},
	CodeHostAway:        {KindUnreachable, "see that libvirt and the mover run on that host; `backstay doctor` tells"},
	CodeHypervisor:      {KindFailed, "see the cause; libvirt's own log on the host has the details"},
	CodeSnapshotFailed:  {KindFailed, "the VM runs on unchanged; see the cause and retry the job"},
	CodeTransferFailed:  {KindFailed, "retry the job when the cause is mended"},
	CodeValidateFailed:  {KindDamaged, "check the storage unit that is named, then retry the job"},
	CodeVaultAway:       {KindUnreachable, "see that the vault's storage units can be reached; `backstay vault show` lists them"},
	CodeVaultReadOnly:   {KindFailed, "make the storage unit writable for the mover, then retry the job"},
	CodeVaultFull:       {KindFailed, "free space in the storage unit or enlarge it, then retry the job"},
	CodeVaultKey:        {KindNotAllowed, "give the key that belongs to this vault"},
	CodeVaultKeyOld:     {KindFailed, "retry: the vault is opened with its newest key then"},
	CodeVaultRolledBack: {KindDamaged, "do not write to the vault; find out who put an older state on its storage units; if that state is to count from now on, say so with `backstay vault catalog NAME rebuild`"},
	CodeNoRecovery:      {KindRefused, "name a recovery recipient, or force it if nobody else shall ever open the vault"},
	CodeDamaged:         {KindDamaged, "restore from another tier or another point; run `backstay point verify` on its neighbours"},
	CodeReclaimStopped:  {KindFailed, "mend what is named, and reclaim then; what is not needed costs room and nothing else"},
	CodeRestoreFailed:   {KindFailed, "nothing of the restore was kept; see the cause and try again"},
	CodeCreateVMFailed:  {KindFailed, "the restored disks are kept where the job's result says; mend the cause and create the VM from them"},
	CodeStartFailed:     {KindFailed, "the VM is defined and its disks are complete; mend the cause and start it"},
	CodeNotUp:           {KindFailed, "the VM runs, but did not answer in time; look at its console"},
	CodeLayerInUse:      {KindRefused, "remove the VM or the point that stands on the layer first"},
	CodeCancelled:       {KindFailed, "start it again when wanted"},
	CodeUnfit:           {KindFailed, "do what stands beside each line that failed, and look again"},
	CodeUnitUnfit:       {KindFailed, "do what stands below each line that fails, or choose another place for the copy"},
	CodeJobEnded:        {KindRefused, "nothing is to be done: the job has ended"},
	CodeJobCrashes:      {KindFailed, "look in the server's log for what ended the server each time; retry the job when that is mended"},
	CodeTooDeep:         {KindRefused, "drop a point with `backstay point delete`, or finish with what stands on the old layers"},
	CodeInconsistent:    {KindFailed, "mend the cause in the guest, or allow a weaker consistency with the policy's --fallback"},
	CodeUnknownGroup:    {KindNotFound, "list the groups with `backstay group list`"},
	CodeHookConfig:      {KindFailed, "correct /etc/backstay/hooks.json in the guest: valid JSON, owned by root, mode 600"},
	CodeHookPermission:  {KindFailed, "let root own the hook's files in the guest, and nobody else write to them"},
	CodeHookMissing:     {KindFailed, "put the script where the configuration in the guest says, or correct the configuration"},
	CodeHookFailed:      {KindFailed, "run the script in the guest by hand and mend what it says"},
	CodeHookTimeout:     {KindFailed, "make the script faster, or raise its timeout in the configuration"},
	CodeHookForbidden:   {KindFailed, "allow guest-exec in the guest agent's configuration, or let its own fsfreeze-hook run the hooks (--hooks agent)"},
	CodeCheckpointLost:  {KindFailed, "nothing is to be done: everything was compared, and the next run has a change map again"},
	CodeGuestBusy:       {KindFailed, "retry the job when the guest has less to do, put its disks on faster storage, or raise the policy's latency limit"},
	CodeSecretMissing:   {KindRefused, "define the secret on the host with its value, or bring the vault's recovery key: --recovery-key FILE"},
	CodeSecretDiffers:   {KindRefused, "if the value on the host is not needed there any more, remove it with `virsh secret-undefine`, and try again: the point's own is put in its place"},
	CodeKeyServiceAway:  {KindRefused, "see that the key service runs and can be reached from the host, or bring the vault's recovery key: --recovery-key FILE"},
	CodeKeyDenied:       {KindRefused, "see the credential and the key of the service in the server's configuration, or bring the vault's recovery key: --recovery-key FILE"},
	CodeVMHeld:          {KindRefused, "end what the cause names, or make a new VM of the point: `backstay restore create-vm POINT --name NEW`"},
	CodeSafetyPoint:     {KindFailed, "nothing was replaced; mend the cause, or leave the safety point out with --no-safety-point"},
	CodeCannotUndo:      {KindRefused, "see the cause; the safety point, if there is one, can be restored like any other"},
	CodeUnknownSession:  {KindNotFound, "list the open sessions with `backstay files sessions`, or open a new one"},
	CodeSessionEnded:    {KindRefused, "run the command again: it opens a new session"},
	CodeSessionLimit:    {KindRefused, "end one that nobody needs any more, see `backstay files sessions`, or raise `files: sessions:` in the configuration"},
	CodeUnknownVolume:   {KindNotFound, "list the volumes of the point with `backstay files ls POINT`"},
	CodeUnknownFile:     {KindNotFound, "list the folder with `backstay files ls POINT PATH`"},
	CodeVolumeLocked:    {KindRefused, "give its key with --passphrase-file, --key-file or --recovery-key-file"},
	CodeVolumeKey:       {KindRefused, "see that the key is that of this volume, as it was when the point was taken"},
	CodeVolumeUnread:    {KindRefused, "see the reason with `backstay files ls POINT`; the whole disk can be had with `backstay restore disks` or `backstay files nbd`"},
	CodeFileUnfit:       {KindRefused, "leave it out, or take the folder above it"},
	CodeMachineFailed:   {KindFailed, "try again; if it stays so, the file systems of the point are damaged: restore its disks instead"},
	CodePutFailed:       {KindFailed, "see the cause; what was there before in the guest is as it was"},
	CodeNotIndexed:      {KindNotFound, "list the points with `backstay point list VM`, and look into one with `backstay files ls POINT`"},
	CodeUnknownUnit:     {KindNotFound, "list the storage units with `backstay unit list`"},
	CodeUnitInUse:       {KindRefused, "drain it first with `backstay unit drain`"},
	CodeUnknownRegion:   {KindNotFound, "list the paired regions with `backstay region list`"},
	CodeRegionAway:      {KindUnreachable, "check the other region's server and the network to it; what is to be pushed is pushed when it answers"},
	CodePairing:         {KindNotAllowed, "make a new token with `backstay region pair` in the other region; each can be used once"},
	CodeRegionQuota:     {KindRefused, "make room in the other region, or let it keep less"},
	CodeReplicaRefused:  {KindDamaged, "verify the vault with `backstay vault verify`; what was refused is not held there"},
	CodeUnknownDrill:    {KindNotFound, "list the drills with `backstay drill list`"},
	CodeDrillFailed:     {KindFailed, "read what each probe found with `backstay drill show`"},
	CodeImageUnfit:      {KindRefused, "make one file of it that needs no other, e.g. `qemu-img convert -O qcow2`, or name its format with --format"},
	CodeCatalogNewer:    {KindRefused, "start the newer release again, or restore the catalogue's file from before the upgrade"},

	CodeNameTaken:       {KindRefused, "choose another --name"},
	CodeUUIDTaken:       {KindRefused, "leave out --keep-uuid"},
	CodeMACInUse:        {KindRefused, "leave out --keep-mac"},
	CodeDiskInUse:       {KindRefused, "choose another --name or --pool"},
	CodeFileExists:      {KindRefused, "move the file away, or choose another --name or --pool"},
	CodeFolderMissing:   {KindRefused, "make the folder, or choose another with --pool"},
	CodeNetworkMissing:  {KindRefused, "map the network to one that is there: --network OLD=NEW"},
	CodeNetworkUnknown:  {KindRefused, "name a network of the point: `backstay point show POINT -o json` lists them under shape.nics"},
	CodePoolMissing:     {KindRefused, "choose another with --pool; `backstay host show HOST` lists them"},
	CodeMachineMissing:  {KindRefused, "install a QEMU that has the machine type, or choose another with --machine"},
	CodeEmulatorMissing: {KindRefused, "install QEMU for that architecture on the host, or choose another --host"},
	CodeKVMMissing:      {KindRefused, "choose a --host that offers KVM, or take the disks alone: `backstay restore disks POINT --to DIR`"},
	CodeCPUMode:         {KindRefused, "make it without starting it (--no-start) and change its CPU, choose another --host, or take the disks alone: `backstay restore disks POINT --to DIR`"},
	CodeCPUFeature:      {KindRefused, "make it without starting it (--no-start) and change its CPU, choose another --host, or take the disks alone: `backstay restore disks POINT --to DIR`"},
	CodeFirmwareMissing: {KindRefused, "install the UEFI firmware on the host: `apt install ovmf`"},
	CodeBootFileMissing: {KindRefused, "put the file where it was, choose another --host, or take the disks alone: `backstay restore disks POINT --to DIR`"},
	CodeTPMMissing:      {KindRefused, "install the TPM emulator on the host: `apt install swtpm swtpm-tools`"},
	CodeNoMemory:        {KindRefused, "leave it shut off with --no-start, or choose another --host"},
	CodeNotConnected:    {KindRefused, "see that libvirt and the mover run on that host, or choose another --host"},
	CodeTierMissing:     {KindRefused, "choose the other tier with --tier, or another point"},
	CodeVaultUnreadable: {KindRefused, "see that the vault's storage units can be reached: `backstay vault show NAME`; or read the snapshot tier, where the point has it: --tier snapshot"},
	CodePartial:         {KindRefused, "say --partial to make the VM without them, or take the disks alone: `backstay restore disks POINT --to DIR`"},
	CodeEncrypted:       {KindRefused, "see `backstay point restores POINT` for what is possible"},
	CodeVMMissing:       {KindRefused, "make a new VM of the point: `backstay restore create-vm POINT --name NEW`"},
	CodeNotShutOff:      {KindRefused, "shut the VM down first, or let the restore do it with --stop"},
	CodeSavedMemory:     {KindRefused, "start the VM and shut it down, or give up what it had in memory with --discard-saved"},
	CodeNoTemplate:      {KindNotFound, "name a folder that `backstay restore disks` made, on the host that has it: --host"},
	CodeDiskChanged:     {KindRefused, "put the disk where it was, or say where it is: --set disk.TARGET.path=FILE"},
	CodeAntiAffinity:    {KindRefused, "deploy on another host, or take the VM out of the group: --set antiAffinityGroup="},
	CodeHostGroup:       {KindRefused, "deploy on a host of the group, or change it: --set hostGroup=HOST"},
	CodeDeviceUnfit:     {KindRefused, "choose a device that nothing uses and that is at least as big as the disk"},
	CodeDeployFailed:    {KindFailed, "the disks are as they were; see the cause and deploy again"},
	CodeDiskUnknown:     {KindRefused, "name a disk of the point: `backstay point show POINT` lists them"},
}

// Codes returns every code with its kind and default action, for the docs and
// for the tests that go over all of them.
func Codes() map[Code]Error {
	all := make(map[Code]Error, len(codes))
	for code, entry := range codes {
		all[code] = Error{Kind: entry.kind, Code: code, Action: entry.action}
	}
	return all
}
