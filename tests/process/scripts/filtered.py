"""A system whose seccomp filter forbids pidfd_open; prints what the agent says to that."""

import ctypes
import errno
import struct

from greenagent.process.libc import check_platform

NO_NEW_PRIVILEGES, SECCOMP, BY_FILTER = 38, 22, 2
PIDFD_OPEN = 434  # of every architecture
steps = (
    struct.pack("=HBBI", 0x20, 0, 0, 0)  # load the number of the system call
    + struct.pack("=HBBI", 0x15, 0, 1, PIDFD_OPEN)  # another one: skip the next step
    + struct.pack("=HBBI", 0x06, 0, 0, 0x00050000 | errno.EPERM)
    + struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)  # allowed
)
code = ctypes.create_string_buffer(steps, len(steps))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
assert libc.prctl(SECCOMP, BY_FILTER, program, 0, 0) == 0, errno.errorcode[ctypes.get_errno()]
print(check_platform())
