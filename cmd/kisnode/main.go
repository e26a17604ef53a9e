// Command kisnode runs a KisFlow node.
package main

import "github.com/kisflow/kisflow/node"

func main() { node.Main() }
