package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// A certificate with its key, and the files it was written to.
type pair struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	certFile    string
	keyFile     string
}

// Makes a key and a certificate in dir. Signed by itself when signer is nil: an authority.
func newPair(dir, name string, subject pkix.Name, usage []x509.ExtKeyUsage, signer *pair) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(7 * 24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  usage,
	}
	parent, parentKey := template, key
	if signer == nil {
		template.IsCA, template.BasicConstraintsValid = true, true
		template.KeyUsage |= x509.KeyUsageCertSign
	} else {
		parent, parentKey = signer.certificate, signer.key
		template.DNSNames = []string{"localhost", "kubernetes", "kubernetes.default.svc"}
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 96, 0, 1)}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	made := &pair{certificate, key, filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")}
	if err := os.WriteFile(made.certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	return made, os.WriteFile(made.keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600)
}

// Everything that a control plane signs and shows.
type identities struct {
	authority, server, admin, manager, frontProxyAuthority, frontProxy, serviceAccounts *pair
}

func newIdentities(dir string) (*identities, error) {
	var made identities
	client := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	for _, wanted := range []struct {
		into    **pair
		name    string
		subject pkix.Name
		usage   []x509.ExtKeyUsage
		signer  **pair
	}{
		{&made.authority, "ca", pkix.Name{CommonName: "control-plane-ca"}, nil, nil},
		{&made.frontProxyAuthority, "front-proxy-ca", pkix.Name{CommonName: "front-proxy-ca"}, nil, nil},
		{&made.server, "apiserver", pkix.Name{CommonName: "kube-apiserver"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, &made.authority},
		{&made.admin, "admin", pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}}, client, &made.authority},
		{&made.manager, "controller-manager", pkix.Name{CommonName: "system:kube-controller-manager"}, client, &made.authority},
		{&made.frontProxy, "front-proxy", pkix.Name{CommonName: "front-proxy-client"}, client, &made.frontProxyAuthority},
		{&made.serviceAccounts, "service-accounts", pkix.Name{CommonName: "service-accounts"}, nil, nil},
	} {
		var signer *pair
		if wanted.signer != nil {
			signer = *wanted.signer
		}
		one, err := newPair(dir, wanted.name, wanted.subject, wanted.usage, signer)
		if err != nil {
			return nil, err
		}
		*wanted.into = one
	}
	return &made, nil
}
