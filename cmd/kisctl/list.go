package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kisflow/kisflow/api"
)

// listFlags are the flags of all commands that answer a list.
type listFlags struct {
	limit int
	after string
}

func (l *listFlags) add(cmd *cobra.Command) {
	cmd.Flags().IntVar(&l.limit, "limit", api.DefaultLimit, "at most `N` items; 0: all")
	cmd.Flags().StringVar(&l.after, "after", "", "go on after the `NEXT` of an earlier list")
}

// each calls f for every page of a list, up to the limit, and returns where the list goes on. A page's size
// never is above what the API gives at a time, so a list of any length passes through in pieces.
func each[T any](ctx context.Context, a *app, l listFlags, get func(context.Context, *api.Client, api.Page) (api.List[T], error), f func([]T) error) (next string, err error) {
	if l.limit < 0 {
		return "", usagef("--limit is %d; it must not be negative", l.limit)
	}
	next = l.after
	for left := l.limit; ; {
		p := api.Page{Limit: api.MaxLimit, After: next}
		if l.limit > 0 {
			p.Limit = min(left, api.MaxLimit)
		}
		list, err := ask(ctx, a, func(ctx context.Context, c *api.Client) (api.List[T], error) { return get(ctx, c, p) })
		if err != nil {
			return "", err
		}
		if err := f(list.Items); err != nil {
			return "", err
		}
		if list.Next != "" && list.Next == next {
			return "", fmt.Errorf("the server's list does not end: next is %q again", next)
		}
		left -= len(list.Items)
		if next = list.Next; next == "" || l.limit > 0 && left <= 0 {
			return next, nil
		}
	}
}

// printList prints a list as a table, or as {"items":[...],"next":...} with one item a line.
func printList[T any](ctx context.Context, a *app, l listFlags, t *table, row func(T) []string, get func(context.Context, *api.Client, api.Page) (api.List[T], error)) error {
	if a.json() {
		return printItems(ctx, a, l, get)
	}
	shown := 0
	next, err := each(ctx, a, l, get, func(items []T) error {
		rows := make([][]string, 0, len(items))
		for _, item := range items {
			rows = append(rows, row(item))
		}
		shown += len(items)
		return t.print(a.out, rows)
	})
	if err == nil && next != "" {
		fmt.Fprintf(a.errs, "%d shown; there is more: --limit N, or --after %s\n", shown, shellQuote(next))
	}
	return err
}

func printItems[T any](ctx context.Context, a *app, l listFlags, get func(context.Context, *api.Client, api.Page) (api.List[T], error)) error {
	w := bufio.NewWriter(a.out)
	first := true
	next, err := each(ctx, a, l, get, func(items []T) error {
		for _, item := range items {
			b, err := compactJSON(item)
			if err != nil {
				return err
			}
			if first {
				w.WriteString(`{"items":[` + "\n")
			} else {
				w.WriteString(",\n")
			}
			first = false
			w.Write(b)
		}
		return nil
	})
	if err != nil {
		return err // what was written so far is no whole list, and at most a part of it is flushed
	}
	if first {
		w.WriteString(`{"items":[`)
	} else {
		w.WriteByte('\n')
	}
	end := []byte("null")
	if next != "" {
		if end, err = json.Marshal(next); err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "],\"next\":%s}\n", end)
	return w.Flush()
}

// shellQuote quotes a word where a shell would not take it as it is.
func shellQuote(s string) string {
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.' || r == '/' || r == ':') {
			return "'" + escapeQuotes(s) + "'"
		}
	}
	return s
}

func escapeQuotes(s string) string {
	out := make([]rune, 0, len(s))
	for _, r := range s {
		if r == '\'' {
			out = append(out, []rune(`'\''`)...)
			continue
		}
		out = append(out, r)
	}
	return string(out)
}
