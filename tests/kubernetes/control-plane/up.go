package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Longest time from start to ready. It takes about five seconds on two idle cores.
const startLimit = 3 * time.Minute

// What is written down of requests when an audit log is asked for: every one once, when it is answered, without bodies.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: Metadata
`

func up() int {
	flags := flag.NewFlagSet("up", flag.ExitOnError)
	dir := flags.String("dir", "", "folder for state, keys, logs and the kubeconfig (made when it is missing)")
	fsync := flags.Bool("fsync", true, "let etcd write through to the disk; off for functional tests")
	audit := flags.Bool("audit", false, "write an audit log to DIR/audit.log")
	whileInput := flags.Bool("until-stdin-closes", false, "end when standard input closes, so that whoever started it need not live to end it")
	if err := flags.Parse(os.Args[1:]); err != nil {
		return 2
	}
	if *dir == "" {
		fail("control-plane up: --dir is missing: name a folder for its state")
	}
	if err := run(*dir, *fsync, *audit, *whileInput); err != nil {
		fmt.Fprintln(os.Stderr, "control-plane up:", err)
		return 1
	}
	return 0
}

func run(dir string, fsync, audit, whileInput bool) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ids, err := newIdentities(dir)
	if err != nil {
		return fmt.Errorf("keys and certificates in %s: %w", dir, err)
	}
	ports, err := freePorts(4)
	if err != nil {
		return err
	}
	etcdURL := fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	server := fmt.Sprintf("https://127.0.0.1:%d", ports[2])
	// The parent-death signal is sent when the thread that started a child ends, so this one stays.
	runtime.LockOSThread()
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	if whileInput {
		go func() {
			// Whatever ends the input is the end.
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
	}
	ended := make(chan error, 3)
	start := func(part string, arguments ...string) (*exec.Cmd, error) { return startPart(dir, part, arguments, ended) }

	etcd, err := start("etcd", "--data-dir="+filepath.Join(dir, "etcd"), "--client-url="+etcdURL,
		fmt.Sprintf("--peer-url=http://127.0.0.1:%d", ports[1]), fmt.Sprintf("--fsync=%t", fsync))
	if err != nil {
		return err
	}
	defer end(etcd)
	arguments := []string{
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", ports[2]),
		"--endpoint-reconciler-type=none", "--etcd-servers=" + etcdURL,
		"--tls-cert-file=" + ids.server.certFile, "--tls-private-key-file=" + ids.server.keyFile, "--client-ca-file=" + ids.authority.certFile,
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + ids.serviceAccounts.certFile,
		"--service-account-signing-key-file=" + ids.serviceAccounts.keyFile,
		"--requestheader-client-ca-file=" + ids.frontProxyAuthority.certFile, "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file=" + ids.frontProxy.certFile, "--proxy-client-key-file=" + ids.frontProxy.keyFile,
		"--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=RBAC", "--profiling=false",
	}
	if audit {
		policy := filepath.Join(dir, "audit-policy.yaml")
		if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
			return err
		}
		arguments = append(arguments, "--audit-policy-file="+policy, "--audit-log-path="+filepath.Join(dir, "audit.log"), "--audit-log-mode=blocking")
	}
	api, err := start("kube-apiserver", arguments...)
	if err != nil {
		return err
	}
	defer end(api)
	admin := filepath.Join(dir, "kubeconfig")
	if err := writeKubeconfig(admin, server, ids.authority, ids.admin); err != nil {
		return err
	}
	if err := waitReady(stop, admin, ended); err != nil {
		return err
	}
	manager := filepath.Join(dir, "controller-manager.kubeconfig")
	if err := writeKubeconfig(manager, server, ids.authority, ids.manager); err != nil {
		return err
	}
	controllers, err := start("kube-controller-manager", "--kubeconfig="+manager, "--authentication-kubeconfig="+manager, "--authorization-kubeconfig="+manager,
		"--controllers=namespace-controller,garbage-collector-controller,serviceaccount-controller,root-ca-certificate-publisher-controller,clusterrole-aggregation-controller",
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", ports[3]), "--leader-elect=false", "--use-service-account-credentials=true",
		"--service-account-private-key-file="+ids.serviceAccounts.keyFile, "--root-ca-file="+ids.authority.certFile)
	if err != nil {
		return err
	}
	defer end(controllers)
	fmt.Println("ready", admin)
	select {
	case <-stop.Done():
		return nil
	case err := <-ended:
		return err
	}
}

// Starts one part as a child process of this binary; what it says goes to DIR/<part>.log.
func startPart(dir, part string, arguments []string, ended chan<- error) (*exec.Cmd, error) {
	log, err := os.Create(filepath.Join(dir, part+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := exec.Command(self, append([]string{part}, arguments...)...)
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", part, err)
	}
	// Tests kill single parts; they find the process here.
	if err := os.WriteFile(filepath.Join(dir, part+".pid"), fmt.Appendln(nil, command.Process.Pid), 0o600); err != nil {
		return nil, err
	}
	go func() {
		err := command.Wait()
		ended <- fmt.Errorf("%s ended (%v); its last words:\n%s", part, err, tail(log.Name()))
	}()
	return command, nil
}

func end(command *exec.Cmd) {
	// It may be gone already, which is what is wanted.
	_ = command.Process.Kill()
}

func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}

// Ports that were free a moment ago; taken all at once, so that they differ. They are from below those that Linux gives to outgoing connections, of which one
// could otherwise take a port before the process that it is meant for.
func freePorts(count int) ([]int, error) {
	const lowest, span = 30000, 2768
	ports := make([]int, 0, count)
	start := rand.IntN(span)
	for i := 0; i < span && len(ports) < count; i++ {
		port := lowest + (start+i)%span
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		defer listener.Close()
		ports = append(ports, port)
	}
	if len(ports) < count {
		return nil, fmt.Errorf("%d ports of 127.0.0.1 from %d to %d are free, %d are needed", len(ports), lowest, lowest+span-1, count)
	}
	return ports, nil
}

func writeKubeconfig(path, server string, authority, user *pair) error {
	config := clientcmdapi.NewConfig()
	var err error
	cluster, identity, here := clientcmdapi.NewCluster(), clientcmdapi.NewAuthInfo(), clientcmdapi.NewContext()
	cluster.Server = server
	if cluster.CertificateAuthorityData, err = os.ReadFile(authority.certFile); err != nil {
		return err
	}
	if identity.ClientCertificateData, err = os.ReadFile(user.certFile); err != nil {
		return err
	}
	if identity.ClientKeyData, err = os.ReadFile(user.keyFile); err != nil {
		return err
	}
	here.Cluster, here.AuthInfo = "control-plane", "user"
	config.Clusters["control-plane"], config.AuthInfos["user"], config.Contexts["control-plane"] = cluster, identity, here
	config.CurrentContext = "control-plane"
	return clientcmd.WriteToFile(*config, path)
}

// Waits until the API says it is ready and the namespace that every test uses is there.
func waitReady(stop context.Context, kubeconfig string, ended <-chan error) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.Timeout = 5 * time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(stop, startLimit)
	defer cancel()
	last := error(nil)
	for {
		answer := client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(limit)
		if last = answer.Error(); last == nil {
			return nil
		}
		select {
		case err := <-ended:
			return err
		case <-limit.Done():
			return fmt.Errorf("kube-apiserver was not ready within %s: %w", startLimit, last)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
