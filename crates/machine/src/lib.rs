//! One machine's own hardware: inventory, disk contents, erase, EFI variables, config drive
