// Command coredns is CoreDNS with the plugins a local cluster uses and no others: the stock program links the
// clients of three cloud providers, which doubles its build time.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
)

// The order of the directives is the order of the chain: what `kubernetes` does not own falls to `template`.
func init() {
	dnsserver.Directives = []string{"ready", "errors", "loadbalance", "cache", "kubernetes", "template"}
}

func main() { coremain.Run() }
