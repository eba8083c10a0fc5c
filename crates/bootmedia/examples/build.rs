//! Builds the boot media without the rest of the project: `cargo run -p bootmedia --example build -- ARCHITECTURE AGENT OUTPUT [KERNEL.deb [FIRMWARE.deb..]]`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let architecture = arguments.next().and_then(|name| name.parse().ok());
    let (Some(architecture), Some(agent), Some(output)) = (architecture, arguments.next(), arguments.next()) else {
        eprintln!("usage: build amd64|arm64 AGENT OUTPUT [KERNEL.deb [FIRMWARE.deb..]]");
        return ExitCode::FAILURE;
    };
    let mut options = bootmedia::Options::new(output, architecture, agent);
    options.kernel_package = arguments.next().map(Into::into);
    let firmware: Vec<_> = arguments.map(Into::into).collect();
    if !firmware.is_empty() {
        options.firmware = bootmedia::FirmwareSource::Files(firmware);
    }
    match bootmedia::build(&options) {
        Ok(manifest) => {
            for missing in &manifest.firmware_left_out {
                println!("left out: firmware package {}: {}", missing.package, missing.reason);
            }
            println!(
                "kernel {} ({} bytes) and initramfs ({} bytes, {} unpacked): {} modules, {} firmware files",
                manifest.kernel_version,
                manifest.kernel.bytes,
                manifest.initramfs.bytes,
                manifest.unpacked_bytes,
                manifest.modules.len(),
                manifest.firmware.len()
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            let mut cause: Option<&dyn std::error::Error> = Some(&error);
            while let Some(error) = cause {
                eprintln!("{error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}
