package main

import (
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// From which time on a request is logged as slow. etcd 3.5 has a limit for applying one, and none for the whole of it.
func setWarningDuration(config *embed.Config, limit time.Duration) {
	config.ExperimentalWarningApplyDuration = limit
}
