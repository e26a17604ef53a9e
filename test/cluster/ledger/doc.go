// Package ledger keeps books on events that flows count, and checks what the flows made of them.
//
// Lanes publish events with unique ids to the flows of testdata/flows.yaml, each lane its own keys, one message after the
// other: the next one only when the one before is acknowledged, or is given up after many attempts. The books say of each
// message whether it was acknowledged, or may be stored or not.
//
// In the end the entry streams are read: they hold every acknowledged message, once, and nothing else than what the lanes
// have sent. What they hold, in their order, says what the flows have to show: each key's outputs, one for each event, in
// order, with the running count and sum; each key's state; each shop's and account's, which take events of many keys; the
// dead letters; and that no cent came or went. It is computed here again, from the definition of the flows, with nothing
// of the product: answers of the API are read as the plain JSON that they are.
package ledger
