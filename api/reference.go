package api

import (
	"fmt"
	"strings"
)

// Reference is docs/reference/api.md: the routes and error codes as a page for people.
func Reference() string {
	var b strings.Builder
	b.WriteString(`# The HTTP API

A node answers HTTP at ` + "`" + DefaultListen + "`" + ` unless told otherwise. kisctl and the console use this API and nothing else. Requests
and answers are JSON; the fields are those of the Go types in package ` + "`api`" + `, and they are stable. This page is made from
the table of routes.

| route | permission | parameters | body | answer | |
|---|---|---|---|---|---|
`)
	for _, r := range Routes() {
		cell := func(s string) string {
			if s == "" {
				return ""
			}
			return "`" + s + "`"
		}
		body := r.Body
		if strings.ContainsAny(body, "{") || body == "Publication" {
			body = cell(body)
		}
		fmt.Fprintf(&b, "| `%s %s` | %s | %s | %s | %s | %s |\n", r.Method, r.Path, r.Permission, cell(strings.Join(r.Query, " ")), body, r.Answer, r.Doc)
	}
	fmt.Fprintf(&b, `
A list is `+"`"+`{"items":[...],"next":...}`+"`"+`. `+"`limit`"+` is %d unless given, and at most %d. While `+"`next`"+` is not null, the list goes on
with `+"`after=NEXT`"+`. Bytes (an event's, a dead letter's) are a string, or `+"`"+`{"base64":"..."}`+"`"+` where they are no UTF-8. A body
has at most %d MiB, a publication %d messages, a retry or drop %d dead letters.

Definitions that an apply does not name stay as they are. A retry or drop names dead letters by their ids; one that is not
there any more is counted as missing and is no error.

## Errors

An error is `+"`"+`{"error":{"code":...,"message":...,"mistakes":[...]}}`+"`"+`; mistakes are there where definitions are invalid.

| code | status | |
|---|---|---|
`, DefaultLimit, MaxLimit, MaxBody>>20, MaxMessages, MaxIDs)
	for _, c := range codes {
		fmt.Fprintf(&b, "| `%s` | %d | %v |\n", c.code, c.status, c.err)
	}
	b.WriteString(`
## Who may call

The API listens on the loopback address, so whoever is on the machine may call it. A request is refused where its host is
neither an IP address, nor localhost, nor the machine's own name, nor one of the node's hosts, and where a browser sends it for a
page of another origin: a foreign page cannot reach the API through its visitor's browser.
`)
	return b.String()
}
