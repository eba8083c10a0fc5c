package main

import (
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// From which time on a request is logged as slow. This is what the field is called in etcd 3.5.
func setWarningDuration(config *embed.Config, limit time.Duration) {
	config.ExperimentalWarningUnaryRequestDuration = limit
}
