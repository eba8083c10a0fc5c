//! The kernel's IPMI device (`include/uapi/linux/ipmi.h`): one message out, its answer in, with an end to the wait.
//!
//! The kernel's driver speaks with the controller in threads of its own and repeats what is lost; this side only sleeps in poll(2), so that a controller that hangs costs the time it was
//! given and no more. A late answer to an earlier message is dropped by its number.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
    io::Errno,
};

use super::{BmcError, Interface, Request};

/// Where the kernel has the first interface.
pub const PATH: &str = "/dev/ipmi0";

/// The machine's own controller.
#[derive(Debug)]
pub struct KernelInterface {
    device: File,
    sequence: core::ffi::c_long,
}

impl KernelInterface {
    /// Opens [`PATH`].
    ///
    /// # Errors
    /// [`BmcError::Open`].
    pub fn open() -> Result<Self, BmcError> {
        Self::open_at(Path::new(PATH))
    }

    /// Opens a device of that kind.
    ///
    /// # Errors
    /// [`BmcError::Open`].
    pub fn open_at(path: &Path) -> Result<Self, BmcError> {
        let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC).bits();
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.cast_signed())
            .open(path)
            .map_err(|source| BmcError::Open {
                path: path.display().to_string(),
                source,
            })?;
        Ok(Self { device, sequence: 0 })
    }
}

impl Interface for KernelInterface {
    fn exchange(&mut self, request: &Request, until: Instant) -> Result<(u8, Vec<u8>), BmcError> {
        let command = request.name;
        let failed = |errno: Errno| BmcError::Kernel {
            command,
            source: io::Error::from(errno),
        };
        self.sequence += 1;
        abi::send(&self.device, request, self.sequence).map_err(failed)?;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(BmcError::Silent { command });
            }
            let left = Timespec {
                tv_sec: left.as_secs().min(60).cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&self.device, PollFlags::IN)], Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
            match abi::receive(&self.device) {
                Ok(answer) if answer.is_response && answer.sequence == self.sequence => {
                    let (code, data) = answer.data.split_first().ok_or(BmcError::Short { command, bytes: 0 })?;
                    return Ok((*code, data.to_vec()));
                }
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
    }
}

mod abi {
    //! `IPMICTL_SEND_COMMAND` and `IPMICTL_RECEIVE_MSG_TRUNC`, for which no safe wrapper is at hand.

    use std::{
        fs::File,
        mem::{offset_of, size_of},
    };

    use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

    use super::Request;

    /// `IPMI_MAX_MSG_LENGTH`.
    const ROOM: usize = 272;
    /// `IPMI_SYSTEM_INTERFACE_ADDR_TYPE`.
    const SYSTEM_INTERFACE: i32 = 0x0c;
    /// `IPMI_BMC_CHANNEL`.
    const BMC: i16 = 0x0f;
    /// `IPMI_RESPONSE_RECV_TYPE`.
    const RESPONSE: i32 = 1;

    /// `struct ipmi_addr`, whose beginning is `struct ipmi_system_interface_addr`.
    #[repr(C)]
    struct Address {
        kind: i32,
        channel: i16,
        unit: u8,
        rest: [u8; 33],
    }

    impl Address {
        const fn of_the_controller() -> Self {
            Self {
                kind: SYSTEM_INTERFACE,
                channel: BMC,
                unit: 0,
                rest: [0; 33],
            }
        }
    }

    /// `struct ipmi_msg`.
    #[repr(C)]
    struct Message<'a> {
        function: u8,
        command: u8,
        length: u16,
        data: &'a mut [u8; ROOM],
    }

    /// `struct ipmi_req`.
    #[repr(C)]
    struct Sent<'a> {
        address: &'a mut Address,
        address_length: u32,
        sequence: core::ffi::c_long,
        message: Message<'a>,
    }

    /// `struct ipmi_recv`.
    #[repr(C)]
    struct Received<'a> {
        kind: i32,
        address: &'a mut Address,
        address_length: u32,
        sequence: core::ffi::c_long,
        message: Message<'a>,
    }

    const _: () = {
        let pointer = size_of::<usize>();
        assert!(size_of::<Message<'_>>() == 2 * pointer && offset_of!(Message<'_>, data) == pointer);
        assert!(offset_of!(Sent<'_>, sequence) == 2 * pointer && offset_of!(Sent<'_>, message) == 3 * pointer);
        assert!(offset_of!(Received<'_>, sequence) == 3 * pointer && offset_of!(Received<'_>, message) == 4 * pointer);
    };

    // SAFETY: `IPMICTL_SEND_COMMAND` takes a pointer to a `struct ipmi_req`, which `Sent` is laid out as. The kernel only reads: the request, `address_length` bytes of the address, which is
    // the size of `Address`, and `length` bytes of the data, which `send` keeps within ROOM. Both are borrowed by the request for as long as it lives.
    #[allow(unsafe_code)]
    unsafe impl Ioctl for Sent<'_> {
        type Output = ();
        const IS_MUTATING: bool = false;

        fn opcode(&self) -> Opcode {
            opcode::read::<Sent<'_>>(b'i', 13)
        }

        fn as_ptr(&mut self) -> *mut core::ffi::c_void {
            std::ptr::from_mut(self).cast()
        }

        unsafe fn output_from_ptr(_: IoctlOutput, _: *mut core::ffi::c_void) -> rustix::io::Result<()> {
            Ok(())
        }
    }

    // SAFETY: `IPMICTL_RECEIVE_MSG_TRUNC` takes a pointer to a `struct ipmi_recv`, which `Received` is laid out as. The kernel writes into it the kind, both lengths, the number and the head of
    // the message, and never a pointer; through its pointers at most `address_length` bytes (it refuses where it has more) and at most `length` bytes of data (it cuts what is longer). These
    // are the sizes of what the exclusive borrows keep alive, and every pattern of bytes is a value of the fields it writes.
    #[allow(unsafe_code)]
    unsafe impl Ioctl for &mut Received<'_> {
        type Output = ();
        const IS_MUTATING: bool = true;

        fn opcode(&self) -> Opcode {
            opcode::read_write::<Received<'_>>(b'i', 11)
        }

        fn as_ptr(&mut self) -> *mut core::ffi::c_void {
            std::ptr::from_mut::<Received<'_>>(self).cast()
        }

        unsafe fn output_from_ptr(_: IoctlOutput, _: *mut core::ffi::c_void) -> rustix::io::Result<()> {
            Ok(())
        }
    }

    pub(super) fn send(device: &File, request: &Request, sequence: core::ffi::c_long) -> rustix::io::Result<()> {
        let mut data = [0; ROOM];
        let length = request.data.len();
        data.get_mut(..length)
            .ok_or(rustix::io::Errno::MSGSIZE)?
            .copy_from_slice(&request.data);
        let mut address = Address::of_the_controller();
        let sent = Sent {
            address: &mut address,
            address_length: offset_of!(Address, rest).next_multiple_of(4) as u32,
            sequence,
            message: Message {
                function: request.function,
                command: request.command,
                length: length as u16,
                data: &mut data,
            },
        };
        // SAFETY: see the implementation of `Ioctl` above; the request lives until the call returns.
        #[allow(unsafe_code)]
        unsafe {
            rustix::ioctl::ioctl(device, sent)
        }
    }

    /// What came in.
    pub(super) struct Answer {
        pub(super) is_response: bool,
        pub(super) sequence: core::ffi::c_long,
        pub(super) data: Vec<u8>,
    }

    pub(super) fn receive(device: &File) -> rustix::io::Result<Answer> {
        let (mut data, mut address) = ([0; ROOM], Address::of_the_controller());
        let mut received = Received {
            kind: 0,
            address: &mut address,
            address_length: size_of::<Address>() as u32,
            sequence: 0,
            message: Message {
                function: 0,
                command: 0,
                length: ROOM as u16,
                data: &mut data,
            },
        };
        // SAFETY: see the implementation of `Ioctl` above; what it borrows lives until the call returns.
        #[allow(unsafe_code)]
        unsafe { rustix::ioctl::ioctl(device, &mut received) }?;
        let (kind, sequence, length) = (received.kind, received.sequence, usize::from(received.message.length));
        Ok(Answer {
            is_response: kind == RESPONSE,
            sequence,
            data: data.get(..length).unwrap_or_default().to_vec(),
        })
    }
}
