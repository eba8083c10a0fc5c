package main

import (
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	kubeapiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	kubecontrollermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"

	// The plugins and metrics that the real binaries link, too.
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
)

func apiserver() int { return cli.Run(kubeapiserver.NewAPIServerCommand()) }

func controllerManager() int { return cli.Run(kubecontrollermanager.NewControllerManagerCommand()) }

func kubectl() int { return cli.Run(kubectlcmd.NewDefaultKubectlCommand()) }

// One etcd member on loopback, without TLS: only this host's test can reach it.
func etcd() int {
	flags := flag.NewFlagSet("etcd", flag.ExitOnError)
	dir := flags.String("data-dir", "", "folder of the data")
	client := flags.String("client-url", "", "where clients are served")
	peer := flags.String("peer-url", "", "where peers would be served")
	fsync := flags.Bool("fsync", true, "write through to the disk, as a real one does; off for functional tests")
	if err := flags.Parse(os.Args[1:]); err != nil {
		return 2
	}
	config := embed.NewConfig()
	config.Dir = *dir
	config.LogLevel = "warn"
	config.UnsafeNoFsync = !*fsync
	setWarningDuration(config, 10*time.Second)
	config.AutoCompactionMode = "periodic"
	config.AutoCompactionRetention = "5m"
	clientURL, err := url.Parse(*client)
	if err != nil {
		fmt.Fprintln(os.Stderr, "etcd: --client-url:", err)
		return 2
	}
	peerURL, err := url.Parse(*peer)
	if err != nil {
		fmt.Fprintln(os.Stderr, "etcd: --peer-url:", err)
		return 2
	}
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{*clientURL}, []url.URL{*clientURL}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{*peerURL}, []url.URL{*peerURL}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	server, err := embed.StartEtcd(config)
	if err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		return 1
	}
	defer server.Close()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case err := <-server.Err():
		fmt.Fprintln(os.Stderr, "etcd:", err)
		return 1
	case <-stop:
		return 0
	}
}
