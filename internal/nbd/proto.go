package nbd

// The numbers of the protocol, from the NBD project's doc/proto.md.
const (
	magicInit       = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption     = 0x49484156454f5054 // "IHAVEOPT"
	magicOptReply   = 0x0003e889045565a9
	magicRequest    = 0x25609513
	magicSimple     = 0x67446698
	magicStructured = 0x668e33ef

	handshakeFixedNewstyle = 1 << 0
	handshakeNoZeroes      = 1 << 1

	optExportName      = 1
	optAbort           = 2
	optList            = 3
	optInfo            = 6
	optGo              = 7
	optStructuredReply = 8
	optListMetaContext = 9
	optSetMetaContext  = 10

	repAck           = 1
	repServer        = 2
	repInfo          = 3
	repMetaContext   = 4
	repErrBit        = 1 << 31
	repErrUnsup      = repErrBit | 1
	repErrInvalid    = repErrBit | 3
	repErrUnknown    = repErrBit | 6
	repErrTooBig     = repErrBit | 9
	infoExport       = 0
	infoName         = 1
	infoDescription  = 2
	infoBlockSize    = 3
	transHasFlags    = 1 << 0
	transReadOnly    = 1 << 1
	transFlush       = 1 << 2
	transFUA         = 1 << 3
	transWriteZeroes = 1 << 6
	transDF          = 1 << 7
	transMultiConn   = 1 << 8

	cmdFlagFUA    = 1 << 0
	cmdFlagNoHole = 1 << 1
	cmdFlagDF     = 1 << 2
	cmdFlagReqOne = 1 << 3

	cmdRead        = 0
	cmdWrite       = 1
	cmdDisc        = 2
	cmdFlush       = 3
	cmdWriteZeroes = 6
	cmdBlockStatus = 7

	chunkNone        = 0
	chunkOffsetData  = 1
	chunkOffsetHole  = 2
	chunkBlockStatus = 5
	chunkErrorBit    = 1 << 15
	chunkError       = chunkErrorBit | 1
	chunkErrorOffset = chunkErrorBit | 2
	chunkFlagDone    = 1 << 0
)

// The numbers of errors on the wire; every other one stands for EIO there.
const (
	wireEPERM    = 1
	wireEIO      = 5
	wireENOMEM   = 12
	wireEINVAL   = 22
	wireENOSPC   = 28
	wireENOTSUP  = 95
	wireSHUTDOWN = 108
)

// The bounds on what a server may say. Everything beyond them ends the
// connection: the sizes in a reply decide how much memory we take.
const (
	maxOptionReply = 64 << 10
	maxString      = 4096 // the protocol's own bound on names and messages
	maxErrorChunk  = 64 << 10
	maxStatusChunk = 16 << 20
	maxSpans       = 64 << 10

	defaultMaxBlock = 32 << 20 // what a client may assume when the server is silent
	smallestMax     = 512      // below this a "maximum block size" is nonsense
	zeroesAtOnce    = 1 << 30  // bytes in one request that carries no data
)
