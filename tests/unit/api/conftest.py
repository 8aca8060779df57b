"""One small run of each kind that says something of videos, and their models."""

from __future__ import annotations

from pathlib import Path

import pytest

import umt_ds
from tests.support.predicting import answerer_run, classifier_run, finder_run, write_videos


@pytest.fixture(scope="package")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="package")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier_run(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="package")
def finder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finder_run(tmp_path_factory.mktemp("finder"))


@pytest.fixture(scope="package")
def answerer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return answerer_run(tmp_path_factory.mktemp("answerer"))


@pytest.fixture(scope="package")
def classifier(classifier_folder: Path) -> umt_ds.VideoModel:
    return umt_ds.load(classifier_folder)


@pytest.fixture(scope="package")
def finder(finder_folder: Path) -> umt_ds.VideoModel:
    return umt_ds.load(finder_folder)


@pytest.fixture(scope="package")
def answerer(answerer_folder: Path) -> umt_ds.VideoModel:
    return umt_ds.load(answerer_folder)
