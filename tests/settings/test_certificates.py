"""Certificate files are looked at before anything connects, and each fault is told apart."""

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests.settings.support import MINIMAL, problems, warnings


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of certificates, good and bad."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name in ("one", "two"):
        leaf = authority.issue_cert(f"{name}.example")
        leaf.cert_chain_pems[0].write_to_path(str(folder / f"{name}.crt"))
        leaf.private_key_pem.write_to_path(str(folder / f"{name}.key"))
    now = datetime.now(timezone.utc)
    for name, begin, end in (
        ("old", datetime(1999, 2, 3, 4, 5, 6, tzinfo=timezone.utc), datetime(2001, 2, 3, 4, 5, 6, tzinfo=timezone.utc)),
        ("early", datetime(2051, 2, 3, 4, 5, 6, tzinfo=timezone.utc), datetime(2060, 1, 1, tzinfo=timezone.utc)),
        ("new", now - timedelta(days=1), now + timedelta(days=1)),
    ):
        leaf = authority.issue_cert(f"{name}.example", not_before=begin, not_after=end)
        leaf.cert_chain_pems[0].write_to_path(str(folder / f"{name}.crt"))
        leaf.private_key_pem.write_to_path(str(folder / f"{name}.key"))
    key = load_pem_private_key((folder / "one.key").read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"secret"))
    (folder / "locked.key").write_bytes(locked)
    (folder / "text").write_text("hello\n")
    (folder / "empty").write_text("")
    for name, source in (("damaged.crt", "one.crt"), ("damaged.key", "one.key")):
        lines = (folder / source).read_text().splitlines()
        (folder / name).write_text("\n".join([lines[0], "AAAA", lines[-1], ""]))
    os.mkfifo(folder / "pipe")
    for path in folder.glob("*.key"):
        path.chmod(0o600)
    return folder


def security(folder: Path, **names: str) -> str:
    lines = [f"{key} = '{folder / name if name else ''}'" for key, name in names.items()]
    return MINIMAL.replace("http:", "https:") + "[controllers.main.security]\n" + "\n".join(lines)


CASES = {
    "good pair and authority": (
        {"client_certificate": "one.crt", "client_certificate_key": "one.key", "certificate_authority": "ca.pem"},
        [],
    ),
    "empty texts": ({"client_certificate": "", "client_certificate_key": "", "certificate_authority": ""}, []),
    "missing files": (
        {"client_certificate": "no.crt", "client_certificate_key": "no.key", "certificate_authority": "no.pem"},
        [
            "client_certificate: 'FOLDER/no.crt' does not exist",
            "client_certificate_key: 'FOLDER/no.key' does not exist",
            "authority: 'FOLDER/no.pem' does not exist",
        ],
    ),
    "key of another": (
        {"client_certificate": "one.crt", "client_certificate_key": "two.key"},
        ["client_certificate_key: 'FOLDER/two.key' does not match client_certificate FOLDER/one.crt"],
    ),
    "no PEM": (
        {"client_certificate": "text", "client_certificate_key": "empty", "certificate_authority": "text"},
        ["no PEM file with a certificate", "no PEM file with a private key", "no PEM file with a certificate"],
    ),
    "files exchanged": (
        {"client_certificate": "one.key", "client_certificate_key": "one.crt"},
        ["no PEM file with a certificate", "no PEM file with a private key"],
    ),
    "certificate alone": ({"client_certificate": "one.crt"}, ["client_certificate: needs client_certificate_key"]),
    "locked key": (
        {"client_certificate": "one.crt", "client_certificate_key": "locked.key"},
        ["client_certificate_key: 'FOLDER/locked.key' is protected by a pass phrase"],
    ),
    "damaged certificate": (
        {"client_certificate": "damaged.crt", "client_certificate_key": "one.key"},
        ["client_certificate: 'FOLDER/damaged.crt' is damaged: it cannot be decoded"],
    ),
    "damaged key": (
        {"client_certificate": "one.crt", "client_certificate_key": "damaged.key"},
        ["client_certificate_key: 'FOLDER/damaged.key' is damaged: it cannot be decoded"],
    ),
    "damaged authority": (
        {"certificate_authority": "damaged.crt"},
        ["certificate_authority: 'FOLDER/damaged.crt' is damaged: it cannot be decoded"],
    ),
    "folder": ({"certificate_authority": "."}, ["cannot be read: it is a folder, not a file"]),
    "pipes": (
        {"client_certificate": "pipe", "client_certificate_key": "pipe", "certificate_authority": "pipe"},
        ["'FOLDER/pipe' cannot be read: it is a pipe, not a file"] * 3,
    ),
}


@pytest.mark.parametrize(("names", "reasons"), CASES.values(), ids=CASES.keys())
def test_faults_are_told_apart(tmp_path: Path, files: Path, names: dict[str, str], reasons: list[str]) -> None:
    found = problems(tmp_path, security(files, **names))
    assert len(found) == len(reasons), found
    for line, reason in zip(found, reasons, strict=True):
        assert reason.replace("FOLDER", str(files)) in line
        assert "[controllers.main.security] " in line
        assert "ssl" not in line.lower().replace(str(files).lower(), "")


def test_a_key_that_others_can_read_is_a_warning(tmp_path: Path, files: Path) -> None:
    text = security(files, client_certificate="one.crt", client_certificate_key="one.key")
    assert warnings(tmp_path, text) == []
    os.chmod(files / "one.key", 0o644)
    try:
        (warning,) = warnings(tmp_path, text)
    finally:
        os.chmod(files / "one.key", 0o600)
    assert f"can be read by every user, run: chmod o= {files / 'one.key'}" in warning


def test_a_certificate_out_of_its_time_is_a_warning_with_the_date(tmp_path: Path, files: Path) -> None:
    def told(name: str) -> list[str]:
        return warnings(
            tmp_path, security(files, client_certificate=f"{name}.crt", client_certificate_key=f"{name}.key")
        )

    assert told("new") == []
    (warning,) = told("old")
    assert f"client_certificate: '{files}/old.crt' has expired on 2001-02-03 04:05:06 UTC" in warning
    (warning,) = told("early")
    assert f"client_certificate: '{files}/early.crt' is not valid before 2051-02-03 04:05:06 UTC" in warning


def test_files_that_are_not_used_are_a_warning(tmp_path: Path, files: Path) -> None:
    alone = warnings(tmp_path, security(files, client_certificate_key="one.key"))
    assert len(alone) == 1
    assert "not used without client_certificate" in alone[0]
    plain = security(files, certificate_authority="ca.pem").replace("https:", "http:")
    (warning,) = warnings(tmp_path, plain)
    assert "is not https" in warning
