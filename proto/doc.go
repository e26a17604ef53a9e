// Package proto holds the forms in which KisFlow writes to streams and disks: kisflow.proto, what is
// generated from it, and how a record is sealed.
//
// The encoding is protobuf's. MarshalVT, MarshalToSizedBufferVT and SizeVT write it without reflection.
// Two readers exist: UnmarshalVT copies what it reads; UnmarshalVTUnsafe lets bytes and strings of the
// message point into its input, which then must not change for as long as the message lives. Both add to a
// message that is not empty: read into a new one, or Reset it before.
//
// A Record is written by Seal and read by OpenRecord, which puts a hash over all of its bytes: a record that
// was damaged on its way is never taken for another one. Envelope, Meta, Value, DeadLetter and Pending are
// hashed by what carries them (the stream, the store).
//
// The forms are for ever: a released field keeps its number and its meaning. testdata/golden holds bytes
// that every later version must read, and write the same.
package proto

//go:generate make -C .. generate
