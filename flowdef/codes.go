package flowdef

// The codes of all mistakes. They are stable: what is no longer reported keeps its number.
const (
	codeFile      = "KF1001"
	codeLimit     = "KF1002"
	codeEncoding  = "KF1003"
	codeSyntax    = "KF1004"
	codeTab       = "KF1005"
	codeTwiceKey  = "KF1006"
	codeAlias     = "KF1007"
	codeTag       = "KF1008"
	codeEmpty     = "KF1009"
	codeNoKind    = "KF1010"
	codeKind      = "KF1011"
	codeKey       = "KF1012"
	codeType      = "KF1013"
	codeMissing   = "KF1014"
	codeValue     = "KF1015"
	codeNumber    = "KF1016"
	codeDuration  = "KF1017"
	codeSize      = "KF1018"
	codeSubject   = "KF1019"
	codeName      = "KF1020"
	codeBody      = "KF1021"
	codeRepeated  = "KF1022"
	codeScope     = "KF1023"
	codeNoKey     = "KF1024"
	codeTwoKeys   = "KF1025"
	codeTooMany   = "KF1026"
	codeStatus    = "KF1027"
	codeNoStatus  = "KF1028"
	codeDuplicate = "KF2001"
	codeNoFunc    = "KF2002"
	codeNoConn    = "KF2003"
	codeNoHandoff = "KF2004"
	codeStepName  = "KF2005"
	codeNoSteps   = "KF2006"
	codeWriters   = "KF2007"
	codeLoop      = "KF2008"
	codeNoBody    = "KF2009"
	codeGlobals   = "KF2010"
	codeUnused    = "KF2011"
	codeShadowed  = "KF2012"
	codeMayLoop   = "KF2013"
	codeMayWrite  = "KF2014"
	codeNoTable   = "KF2015"

	// Of package node, which follows the rows along the flows: the field contract.
	codeNoField   = "KF3001"
	codeFieldType = "KF3002"
	codeMayMiss   = "KF3003"
	codeOffer     = "KF3004"

	// Of package node, which alone knows expressions and connectors; here for the one reference.
	codeExpression = "KF4001"
	codeConnector  = "KF4002"
	codeSetting    = "KF4003"
	codeScript     = "KF4005"
)

// Code describes one kind of mistake.
type Code struct {
	Code     string
	Severity Severity
	Title    string
	Meaning  string // when it is reported, and why it is one
	Remedy   string // what to do
}

// Codes returns all kinds of mistakes, in the order of their codes.
func Codes() []Code { return append([]Code(nil), codes...) }

func severityOf(code string) Severity {
	for _, c := range codes {
		if c.Code == code {
			return c.Severity
		}
	}
	return Error
}

var codes = []Code{
	{codeFile, Error, "file cannot be read", "A file or folder that was named cannot be opened or read.", "Check the path and the rights of the file."},
	{codeLimit, Error, "beyond a limit", "A file, a document, the depth of its values or what its aliases come to is beyond what is read. The limits keep a hostile file from costing more than a moment.", "Split the file, or write the values out flatter."},
	{codeEncoding, Error, "not plain UTF-8", "The file holds bytes that are not UTF-8, or control characters.", "Save the file as UTF-8 and remove the character."},
	{codeSyntax, Error, "not YAML", "The document cannot be read as YAML. Other documents of the same file are checked all the same.", "Look at the place and just before it: an open quote or bracket, a missing blank after a colon, a text that needs quotes."},
	{codeTab, Error, "tab in front of a line", "YAML is indented with blanks; a tab is refused.", "Replace the tab by blanks."},
	{codeTwiceKey, Error, "key twice in one mapping", "The same key stands twice in one mapping, and only one of them could count.", "Remove one of them."},
	{codeAlias, Error, "alias without its anchor", "An alias names no anchor before it in the same document, or stands inside of its own anchor.", "Define the anchor first, or write the value out."},
	{codeTag, Error, "unknown tag", "A YAML tag other than the standard ones.", "Leave the tag out."},
	{codeEmpty, Warning, "no definition", "A file or a folder holds no definition.", "Remove the file, or check that the path is the right one. Only names that end in .yml or .yaml are read from a folder."},
	{codeNoKind, Error, "no kistype", "A document does not say which kind of definition it is.", "Add `kistype: func`, `flow`, `conn` or `global`."},
	{codeKind, Error, "unknown kistype", "The kind is none of the four.", "Use `func`, `flow`, `conn` or `global`."},
	{codeKey, Error, "unknown key", "A key that this kind of definition does not know; most often it is misspelt, or indented too far or not far enough.", "Use a key of the reference."},
	{codeType, Error, "wrong type", "A value is a list, a mapping, a text, a number or a truth value where another is wanted.", "Write what the message asks for."},
	{codeMissing, Error, "missing key", "A definition, or a part of it, lacks what it cannot do without.", "Add the key."},
	{codeValue, Error, "unknown value", "A key takes one of a few words, and this is none of them. The words are written exactly as in the reference.", "Use one of the words of the message."},
	{codeNumber, Error, "number out of range", "A number is negative, too large, or not whole.", "Use a number in the range of the message."},
	{codeDuration, Error, "not a duration", "A duration cannot be read, or is negative.", "Write whole numbers with units: ms, s, m, h, d, w; for example 30s, 1h30m, 7d."},
	{codeSize, Error, "not a size", "A size in bytes cannot be read, or is negative.", "Write a whole number with a unit: B, KiB, MiB, GiB, TiB or KB, MB, GB, TB; for example 10GiB."},
	{codeSubject, Error, "not a subject", "A NATS subject is words joined by dots, without blanks. Only an entry may hold the wildcards * (one word) and > (all the rest, last); only an expand may hold {field}. Subjects that begin with $ belong to the server, those that begin with KISFLOW to KisFlow itself.", "Write the subject by these rules."},
	{codeName, Error, "not a name", "A name is empty, too long, or holds control characters or outer blanks.", "Any other Unicode text is a name."},
	{codeBody, Error, "body of another mode", "A function has the body of another mode than its fmode, for example `calculate` under `fmode: Verify`.", "Change fmode, or move the body to a function of its own."},
	{codeRepeated, Error, "repeated item", "A list that holds each item once holds one twice; or two entries of a flow would read the same event.", "Remove one of them."},
	{codeScope, Error, "init uses the row", "A state field's init is computed before there is a row, and without the other state: it may use neither row, state nor meta.", "Use a fixed value or params; what needs the row belongs to set."},
	{codeNoKey, Error, "state without a key", "A Calculate keeps state, and state belongs to a key: the values of the fields in source.must.", "Name the key's fields in source.must."},
	{codeTwoKeys, Warning, "two spellings at once", "Both spellings of a key stand there with different values; the newer one counts.", "Remove the older one."},
	{codeTooMany, Error, "too many mistakes", "The file has more mistakes than are reported.", "Correct some and check again."},
	{codeStatus, Warning, "unusual status", "status is neither 0 (disabled) nor 1 (enabled); every other number enables.", "Write 0 or 1."},
	{codeNoStatus, Warning, "flow disabled for want of status", "A flow without status is disabled: it is checked and stored and never runs.", "Add `status: 1` to enable it, or `status: 0` to say that it is meant so."},
	{codeDuplicate, Error, "name defined twice", "Two definitions of a kind have the same name.", "Rename or remove one of them."},
	{codeNoFunc, Error, "unknown function", "A step names a function that no definition has. In a disabled flow it is a warning.", "Correct the name, or add the function."},
	{codeNoConn, Error, "unknown connector", "A function names a connector that no definition has. Where no enabled flow uses the function it is a warning.", "Correct the name, or add the connector."},
	{codeNoHandoff, Error, "unknown hand-off", "A Load names a hand-off that no flow saves. It is an error where the name is much like that of another hand-off, and else a warning: the Save may come later.", "Correct the name, or add the Save."},
	{codeStepName, Error, "step name twice", "Two steps of a flow have the same name; state, queries and jumps name a step by it.", "Give one of them another name with `as`."},
	{codeNoSteps, Warning, "flow without steps", "A flow has no steps: what comes in is read and forgotten.", "List its functions under `flows`."},
	{codeWriters, Error, "two flows write the same", "Two flows save the same fields to the same hand-off or the same key of a connector, or send to the same subject. Two writers of one value overwrite each other in an order that nobody chose.", "Let one flow write, or name different `save.fields`, or say `save.shared: true` in every one of these Saves; of Expands, send to different subjects, or say `expand.shared: true` in every one of them."},
	{codeLoop, Error, "flows feed themselves", "What a flow sends out comes in again, directly or through others, without end.", "Break the circle: another subject or hand-off, or put the Load behind the Save. Where it is meant so, say in one of the flows how often an event may pass it: `loop: {most: 10}`."},
	{codeNoBody, Warning, "function without implementation", "A function has no body in YAML and is no known Go function; it is refused when applied to a node that does not have it. Verify, Save and Load need none.", "Add a body (calculate, expand, verify), or register the Go function."},
	{codeGlobals, Error, "second global", "There are two definitions of kind global.", "Merge them into one."},
	{codeUnused, Warning, "function that no flow uses", "A function is defined, other functions are used, and this one is not.", "Remove it, or look for a misspelt step."},
	{codeShadowed, Warning, "disabled flow of the same name", "A disabled flow has the name of another flow, and is left out.", "Remove or rename it."},
	{codeMayLoop, Warning, "flows may feed themselves", "What a flow sends out may come in again: some rows only (`when`), or some values of a {field} only.", "Check that it ends, or use another subject."},
	{codeMayWrite, Warning, "two flows may write the same", "Two flows save through the same connector with functions that do not say which fields they write.", "Say it with `save.fields`, or `save.shared: true`."},
	{codeNoTable, Error, "hand-off that cannot be looked up", "A Load looks up rows of a hand-off, and that cannot be: its Save has no key, or keeps no rows, its Saves have different keys, or the Load asks by other fields.", "Give the Save a key (`source.must` or `save.key`), and say in `load.key` what each of its fields is."},
	{codeNoField, Error, "unknown field", "A step uses a field that no row has which gets there: the entry declares its fields (`entry.fields`), or the steps before, or the flows that feed this one, emit others. Most often it is misspelt, here or where it is emitted. Every such row would become a dead letter.", "Correct the name; or say that the field may be missing: `row.x ?? 0`, `row?.x`, `has(row.x)`."},
	{codeFieldType, Error, "field of the wrong type", "A step does with a field what its type does not allow: it adds a number to a text, keys by an object, compares what is never equal.", "Correct the step, or what the message names as the field's origin; `int(...)`, `float(...)` and `string(...)` make one type of another."},
	{codeMayMiss, Warning, "field that may be unknown", "A part of an expression that is not computed for every row uses a field that no row has which the flows of the set send to this entry, or uses it as its type does not allow. Who else sends to the entry may send it.", "Correct the name, or declare the `entry.fields`."},
	{codeOffer, Error, "function does not keep its word", "A function says with `offers` what it emits, and its body emits something else.", "Correct one of the two."},
	{codeExpression, Error, "wrong expression", "An expression cannot be compiled: its syntax, a name that it does not know, or types that do not fit.", "See the reference of expressions."},
	{codeConnector, Error, "connector cannot do it", "A connector's type has no side for this function in this build: it cannot save, or cannot load, or is not known.", "Use another type, or a node whose program has it."},
	{codeSetting, Error, "wrong setting of a connector", "A connector's definition has a parameter that its type does not know or that is not of its kind, lacks one, or holds a secret in the open. Where no look-up of an enabled flow uses the connector only what looks misspelt is told, as a warning.", "Use the parameters of the connector's reference; write secrets as `${ENV:NAME}` or `${file:PATH}`."},
	{codeScript, Error, "wrong script", "A script in JavaScript cannot be compiled, or defines no function handle.", "See the guide of scripts."},
}
