"""Checkouts in a temporary folder: fresh, and set up."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.tiny_checkout import Checkout, make_checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return make_checkout(tmp_path)


@pytest.fixture
def prepared(checkout: Checkout) -> Checkout:
    done = checkout.prepare()
    assert done.returncode == 0, done.stderr
    checkout.calls_file.unlink()
    return checkout
