// Command control-plane is a real Kubernetes control plane for tests, in one binary: etcd, kube-apiserver, the controllers that empty namespaces and collect
// garbage, and kubectl, all linked from their published Go modules.
//
//	control-plane up --dir DIR   starts everything on loopback, writes DIR/kubeconfig, prints "ready DIR/kubeconfig", runs until it is told to stop
//	control-plane kubectl ...    the stock kubectl (also when the binary is called kubectl)
//
// The parts run as child processes of "up", so that each can be watched and killed by itself. It runs no pods and is not for anything but tests.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if filepath.Base(os.Args[0]) == "kubectl" {
		os.Exit(kubectl())
	}
	if len(os.Args) < 2 {
		fail("usage: control-plane up|etcd|kube-apiserver|kube-controller-manager|kubectl ...")
	}
	part := os.Args[1]
	// The parts read os.Args themselves.
	os.Args = append([]string{part}, os.Args[2:]...)
	switch part {
	case "up":
		os.Exit(up())
	case "etcd":
		os.Exit(etcd())
	case "kube-apiserver":
		os.Exit(apiserver())
	case "kube-controller-manager":
		os.Exit(controllerManager())
	case "kubectl":
		os.Exit(kubectl())
	default:
		fail(fmt.Sprintf("control-plane: %q is none of up, etcd, kube-apiserver, kube-controller-manager, kubectl", part))
	}
}

func fail(text string) {
	fmt.Fprintln(os.Stderr, text)
	os.Exit(2)
}
