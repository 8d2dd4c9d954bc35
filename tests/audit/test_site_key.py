"""Ids of patients cannot be found out from what a model folder keeps; the key of the site never lies beside a model."""

import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mrm.audit import site_key
from mrm.audit.fingerprints import Fingerprints, fingerprint
from mrm.audit.site_key import SiteKey
from mrm.data.records import Record, Records
from mrm.system.errors import ConfigError

KEY = SiteKey(bytes(range(32)))


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """RFC 2104, written out."""
    block = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in block) + message).digest()
    return hashlib.sha256(bytes(b ^ 0x5C for b in block) + inner).digest()


def of_patients(*ids: str) -> Records:
    return Records([Record(f"{i}".encode(), patient=i, study=f"A{i}", name=f"{i}.png") for i in ids])


@pytest.fixture
def own_key(tmp_path, monkeypatch):
    """The place of a key that has not been made yet."""
    monkeypatch.setenv("MRM_SITE_KEY", str(tmp_path / "key"))
    return tmp_path / "key"


def test_the_hash_is_hmac_sha256_by_its_definition():
    # the first test case of RFC 4231, which the function above must reproduce
    assert hmac_sha256(b"\x0b" * 20, b"Hi There").hex().startswith("b0344c61d8db38535ca8afceaf0bf12b")
    values = np.array([[1, 0], [2**64 - 1, 77]], np.uint64)
    expected = [
        int.from_bytes(hmac_sha256(KEY.secret, int(v).to_bytes(8, "little"))[:8], "little") if v else 0
        for v in values.ravel()
    ]
    assert KEY.hashed(values).ravel().tolist() == expected
    assert KEY.hashed(values).shape == (2, 2)


def test_counting_up_finds_every_patient_without_a_key_and_none_with_it(tmp_path):
    """The attack: hash all ids and look them up. Studies, names and patients of published file names are of the same kind."""
    ids = [str(n) for n in range(1000, 1150)]
    secret = fingerprint(of_patients(*ids), images=False)
    everyone = fingerprint(of_patients(*map(str, range(2000))), images=False)
    stored = Fingerprints.load(secret.save(tmp_path / "seen.npz"))
    for kind in ("patients", "studies", "names"):
        attacker = getattr(everyone, kind)
        assert np.isin(getattr(secret, kind), attacker).all(), "the attack must work where there is no key"
        assert getattr(stored, kind).all()
        assert not np.isin(getattr(stored, kind), attacker).any()


def test_patients_of_published_file_names_are_hidden_too(tmp_path):
    nih = Records([Record(b"", name=f"{n:08}_000.png") for n in range(1, 50)])
    stored = Fingerprints.load(fingerprint(nih, images=False).save(tmp_path / "seen.npz"))
    assert stored.inferred == 49
    assert not np.isin(stored.patients, fingerprint(nih, images=False).patients).any()


def test_another_key_gives_other_hashes_and_another_id():
    other = SiteKey(bytes(32))
    values = np.arange(1, 100, dtype=np.uint64)
    assert other.id != KEY.id
    assert not np.isin(KEY.hashed(values), other.hashed(values)).any()
    assert KEY.secret.hex() not in KEY.id
    assert KEY.secret.hex() not in repr(KEY)
    assert repr(KEY.secret) not in repr(KEY)


def test_the_key_is_made_once_for_its_user_alone_with_a_word_about_it(own_key):
    assert site_key.load() is None
    with pytest.warns(UserWarning, match=f"made the site key {own_key}.*Back it up"):
        made = site_key.load_or_make()
    assert stat.S_IMODE(own_key.stat().st_mode) == 0o600
    assert made.secret == bytes.fromhex(own_key.read_text())
    assert len(made.secret) == 32
    assert site_key.load_or_make() == made
    assert [p.name for p in own_key.parent.iterdir()] == ["key"]


@pytest.mark.filterwarnings("ignore:made the site key")
def test_processes_that_need_the_key_at_the_same_moment_agree_on_one(own_key):
    with ThreadPoolExecutor(8) as pool:
        keys = {key.secret for key in pool.map(lambda _: site_key.load_or_make(), range(8))}
    assert keys == {bytes.fromhex(own_key.read_text())}
    assert [p.name for p in own_key.parent.iterdir()] == ["key"]


@pytest.mark.filterwarnings("ignore:made the site key")
def test_the_key_lies_in_the_users_configuration_and_not_in_a_model_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("MRM_SITE_KEY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    seen = fingerprint(of_patients("1"), images=False).save(tmp_path / "model" / "seen" / "training.npz")
    file = tmp_path / "config" / "mrm" / "site-key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    secret = file.read_text().strip()
    assert bytes.fromhex(secret) not in seen.read_bytes()
    assert not any(secret.encode() in p.read_bytes() for p in (tmp_path / "model").rglob("*") if p.is_file())
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert site_key.place() == tmp_path / "home" / ".config" / "mrm" / "site-key"


@pytest.mark.parametrize("content", [b"", b"secret", b"0" * 63, b"g" * 64, b"0" * 65, b"\xff\xfe" * 32])
def test_a_file_that_holds_no_key_is_refused_and_left_as_it_is(own_key, content):
    own_key.write_bytes(content)
    with pytest.raises(ConfigError, match=r"holds no site key \(64 hexadecimal digits\); restore it from a backup"):
        site_key.load_or_make()
    assert own_key.read_bytes() == content


def test_a_share_that_is_gone_gets_no_new_key(tmp_path, monkeypatch):
    monkeypatch.setenv("MRM_SITE_KEY", str(tmp_path / "share" / "key"))
    with pytest.raises(ConfigError, match=r"the site key cannot be made .*set MRM_SITE_KEY to a file"):
        fingerprint(of_patients("1"), images=False).save(tmp_path / "seen.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_a_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MRM_SITE_KEY", str(tmp_path))
    with pytest.raises(ConfigError, match="the site key cannot be read"):
        site_key.load()


def test_a_key_that_everybody_can_read_is_warned_of_and_one_of_a_group_is_not(own_key):
    own_key.write_text("ab" * 32)
    os.chmod(own_key, 0o640)
    assert site_key.load() == SiteKey(b"\xab" * 32)
    os.chmod(own_key, 0o644)
    with pytest.warns(UserWarning, match="all users of this machine can read the site key"):
        site_key.load()
