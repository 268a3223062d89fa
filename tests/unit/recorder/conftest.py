"""What the recorder's tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from recorder_studio import MakeStudio, Notes, Settings, Studio

from proxyd.recorder.keys import Signer
from proxyd.recorder.recorder import Recorder


@pytest.fixture(scope="session")
def identity() -> pyrage.x25519.Identity:
    return pyrage.x25519.Identity.generate()


@pytest.fixture(scope="session")
def signer() -> Signer:
    return Signer(Ed25519PrivateKey.generate())


@pytest.fixture
def make_studio(identity: pyrage.x25519.Identity, signer: Signer) -> MakeStudio:
    def make(root: Path, **settings: Any) -> Studio:
        notes = Notes()
        chosen = Settings(root, [str(identity.to_public())], **settings)
        recorder = Recorder(chosen, "node1", catalog=notes, ledger=notes, gauges=notes, signer=signer)
        return Studio(root, notes, signer, str(identity), recorder)

    return make


@pytest.fixture
def studio(tmp_path: Path, make_studio: MakeStudio) -> Studio:
    return make_studio(tmp_path)
