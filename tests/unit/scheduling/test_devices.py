from __future__ import annotations

import pytest

from clip_pkg.base.errors import UserError
from clip_pkg.scheduling.devices import Gpu, find_devices, parse_ids

GPUS = [Gpu(0, "GPU-aaa", "A100"), Gpu(1, "GPU-bbb", "A100"), Gpu(2, "GPU-ccc", "H100")]


def ids(wanted: list[str] | None, visible: str | None = None) -> list[tuple[str, str]]:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    devices, _ = find_devices(wanted, gpus=GPUS, environment=environment)
    return [(device.id, device.visible) for device in devices]


def test_indices_and_uuids_name_the_same_device() -> None:
    assert ids(["2", "GPU-aaa"]) == [("2", "GPU-ccc"), ("0", "GPU-aaa")]
    assert [one for one, _ in ids(None)] == ["0", "1", "2"]


def test_inherited_visibility_is_respected() -> None:
    assert ids(None, "2,0") == [("0", "GPU-ccc"), ("1", "GPU-aaa")]
    assert ids(["1"], "GPU-ccc,GPU-bbb") == [("1", "GPU-bbb")]
    assert ids(None, "MIG-x/1/0") == [("0", "MIG-x/1/0")]
    assert ids(None, "0,7,1") == [("0", "GPU-aaa")]
    with pytest.raises(UserError, match="2 is not on this machine"):
        ids(["2"], "0,1")


def test_without_gpus_the_cpu_is_used_and_it_is_said() -> None:
    for gpus, environment in (([], {}), (GPUS, {"CUDA_VISIBLE_DEVICES": ""})):
        devices, notices = find_devices(["6"], gpus=gpus, environment=environment)
        assert [(d.id, d.is_gpu, d.log_tag) for d in devices] == [("cpu", False, "cpu")]
        assert "CPU" in notices[0]


def test_a_child_sees_one_device_in_pci_order() -> None:
    devices, _ = find_devices(["1"], gpus=GPUS, environment={})
    child = devices[0].environment({"PATH": "p", "CUDA_VISIBLE_DEVICES": "0,1,2"})
    assert child == {
        "OMP_WAIT_POLICY": "PASSIVE",
        "PATH": "p",
        "CUDA_VISIBLE_DEVICES": "GPU-bbb",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


@pytest.mark.parametrize("text", ["", ",", "0,0", "gpu0", "-1", "0,x"])
def test_bad_lists_are_sentences(text: str) -> None:
    with pytest.raises(UserError, match="--gpus"):
        parse_ids(text)


def test_commas_and_spaces() -> None:
    assert parse_ids("0, 1 GPU-x") == ("0", "1", "GPU-x")
