"""Which variables an extension takes from its caller: none that decides which code runs, or whom it trusts.

Programs know such variables without end, and so this list lets through what it does not know (docs/security.md names
the shape of an extension that takes none). It goes by kinds of names, so that the next one of a kind is refused, too.
"""

from __future__ import annotations

import re
from typing import Final

_PREFIXES: Final = (
    # the loader and the C library
    *("LD_", "GLIBC_", "MALLOC_", "LIBC_", "RES_"),
    # interpreters
    *("BASH_", "PYTHON", "PERL", "RUBY", "GEM_", "BUNDLE_", "LUA_", "NODE_", "PHP", "TCL", "GUILE_", "ERL_", "JULIA_"),
    *("R_PROFILE", "R_ENVIRON", "DOTNET_", "CORECLR_", "MONO_", "JAVA_", "GO(?:ROOT|ENV|BIN|TOOLCHAIN)", "RUSTC"),
    # programs that start others, or fetch what is run
    *("GIT_", "SVN_", "CVS_", "SSH_", "SUDO_", "RSYNC_", "SYSTEMD_", "DBUS_", "ANSIBLE_", "DOCKER_", "NIX_"),
    *("PIP_", "UV_", "NPM_", "npm_", "YARN_", "CARGO_"),
    # libraries: their files, modules and roots of trust
    *("XDG_", "SSL", "OPENSSL_", "KRB5", "LDAP", "SASL_", "ODBC", "TERMINFO", "TERMCAP", "GTK_", "QT_", "GIO_", "GST_"),
)
_SUFFIXES: Final = (
    # where code and settings are looked for
    *("PATH", "HOME", "DOTDIR", "_LIBS?", "_LIBRARY", "_PRELOAD", "_MODULES", "_PLUGINS?", "_HOOKS?"),
    *(".CONFIG(?:_.*)?", "_CONF", "_RC", "_INIT", "_PROFILE", "_ENV"),
    # options that are added to those given
    *("OPTIONS", "OPTS", "_OPT", "FLAGS"),
    # programs to start
    *("SHELL", "EDITOR", "PAGER", "_RSH", "_SSH", "COMMAND", "_PROG", "_PROGRAM", "_WRAPPER", "ASKPASS"),
    # whom to trust, and the way there
    *("_CA_BUNDLE", "_CERT_FILE", "_CERT_DIR", "_PROXY", "_proxy"),
)
_WHOLE: Final = (
    *("ENV", "IFS", "OPT", "PS4", "CC", "CXX", "VISUAL", "BROWSER", "TMPDIR", "TEMPDIR", "TMP", "TEMP"),
    *("HOSTALIASES", "LOCALDOMAIN", "INPUTRC", "NETRC", "WGETRC", "SCREENRC", "VIMINIT", "EXINIT"),
    *("MAKEFILES", "LESS", "LESSOPEN", "LESSCLOSE", "LESSKEY.*"),
)
_DECIDES: Final = re.compile(
    f"(?:{'|'.join(_PREFIXES)}).*|.*(?:{'|'.join(_SUFFIXES)})|{'|'.join(_WHOLE)}",
    re.DOTALL,
)


def decides(name: str) -> bool:
    """Whether a variable of that name may decide which code a program runs, or whom it trusts."""
    return _DECIDES.fullmatch(name) is not None
