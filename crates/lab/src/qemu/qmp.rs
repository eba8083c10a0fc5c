//! QEMU's monitor protocol (QMP): one command, one answer.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use crate::LabError;

/// How long QEMU may take to answer: its main loop may be busy under emulation.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to one machine's monitor.
#[derive(Debug)]
pub struct Monitor {
    machine: String,
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects and leaves capability negotiation.
    ///
    /// # Errors
    /// [`LabError::File`] when the socket is not there, [`LabError::Monitor`] when QEMU does not answer.
    pub async fn connect(machine: &str, socket: &Path) -> Result<Self, LabError> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(LabError::file("cannot reach QEMU's monitor at", socket))?;
        let mut monitor = Self {
            machine: machine.to_owned(),
            stream: BufReader::new(stream),
        };
        monitor.read("greeting").await?;
        monitor.execute("qmp_capabilities", json!({})).await?;
        Ok(monitor)
    }

    /// Runs a command and gives what it returns. Events in between are skipped.
    ///
    /// # Errors
    /// [`LabError::Monitor`] when QEMU refuses or goes away.
    pub async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, LabError> {
        self.send(command, arguments).await?;
        loop {
            let mut answer = self.read(command).await?;
            if let Some(error) = answer.get("error") {
                return Err(self.refused(command, error.to_string()));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// Runs a command and waits until what it leads to has happened, which is told by an event. QEMU tells that before it answers, or after.
    ///
    /// # Errors
    /// [`LabError::Monitor`] when QEMU refuses, the event does not come, or QEMU goes away.
    pub async fn execute_until(&mut self, command: &str, event: &str) -> Result<(), LabError> {
        self.send(command, json!({})).await?;
        let (mut answered, mut happened) = (false, false);
        while !(answered && happened) {
            let said = self.read(command).await?;
            if let Some(error) = said.get("error") {
                return Err(self.refused(command, error.to_string()));
            }
            answered |= said.get("return").is_some();
            happened |= said.get("event").and_then(Value::as_str) == Some(event);
        }
        Ok(())
    }

    async fn send(&mut self, command: &str, arguments: Value) -> Result<(), LabError> {
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        let sent = self.stream.get_mut().write_all(line.as_bytes()).await;
        sent.map_err(|e| self.refused(command, e.to_string()))
    }

    async fn read(&mut self, command: &str) -> Result<Value, LabError> {
        let mut line = String::new();
        match timeout(PATIENCE, self.stream.read_line(&mut line)).await {
            Err(_) => Err(self.refused(command, format!("no answer within {} s", PATIENCE.as_secs()))),
            Ok(Err(e)) => Err(self.refused(command, e.to_string())),
            Ok(Ok(0)) => Err(self.refused(command, "the monitor was closed".to_owned())),
            Ok(Ok(_)) => serde_json::from_str(&line).map_err(|e| self.refused(command, e.to_string())),
        }
    }

    fn refused(&self, command: &str, answer: String) -> LabError {
        LabError::Monitor {
            machine: self.machine.clone(),
            command: command.to_owned(),
            answer,
        }
    }
}
