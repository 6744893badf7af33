"""What was chosen while the service ran is seen by every process, until the file says otherwise."""

from __future__ import annotations

import pytest

from facegraph.store import Store

pytestmark = pytest.mark.store


async def test_a_choice_is_everyones_and_outlives_the_process(database_url: str) -> None:
    async with Store.open(database_url) as one, Store.open(database_url) as other:
        assert await one.choice("segmenter", "auto") is None
        await one.choose("segmenter", "yolact_base", "auto")
        assert await other.choice("segmenter", "auto") == "yolact_base"
        await other.choose("segmenter", "yolov5s-seg", "auto")
        assert await one.choice("segmenter", "auto") == "yolov5s-seg"
    async with Store.open(database_url) as later:
        assert await later.choice("segmenter", "auto") == "yolov5s-seg"
        assert await later.choice("captioner", "auto") is None


async def test_another_configuration_takes_over(database_url: str) -> None:
    async with Store.open(database_url) as store:
        await store.choose("segmenter", "yolact_base", "auto")
        assert await store.choice("segmenter", "yolact_im700") is None
        await store.drop_outdated_choice("segmenter", "auto")
        assert await store.choice("segmenter", "auto") == "yolact_base"
        await store.drop_outdated_choice("segmenter", "yolact_im700")
        assert await store.choice("segmenter", "auto") is None
