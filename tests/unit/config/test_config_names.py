"""Which file a name means, what variables and ~ stand for, and what no name or path may be."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from umt_ds.config.key_paths import flatten
from umt_ds.config.load import load_run
from umt_ds.config.show import as_tree, as_yaml
from umt_ds.errors import ConfigError

DEMO = "demo/stage1"


def write(path: Path, **settings: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(settings))
    return path


# ---------------------------------------------------------------- which file


@pytest.mark.parametrize("name", ["base", "base.yaml", "../there/base", "../there/base.yaml", "./base"])
@pytest.mark.parametrize("cwd", ["here", "there", "."])
def test_a_base_is_the_one_beside_the_file_wherever_the_command_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cwd: str, name: str
) -> None:
    for folder, seed in (("here", 111), ("there", 222), (".", 333)):
        write(tmp_path / folder / "base.yaml", extends=[DEMO], seed=seed)
    child = write(tmp_path / "there" / "child.yaml", extends=[name])
    monkeypatch.chdir(tmp_path / cwd)
    assert load_run(str(child)).seed == 222


def test_a_base_of_the_other_ending_or_by_its_whole_path_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write(tmp_path / "there" / "base.yml", extends=[DEMO], seed=5)
    assert load_run(str(write(tmp_path / "there" / "child.yaml", extends=["base"]))).seed == 5
    assert load_run(str(write(tmp_path / "child.yaml", extends=[str(base)]))).seed == 5
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_run(str(write(tmp_path / "else" / "child.yaml", extends=["~/there/base.yml"]))).seed == 5
    assert load_run("~/there/base.yml").seed == 5


def test_a_shipped_run_never_picks_up_a_file_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("base/stage1", "demo/stage1"):
        write(tmp_path / f"{name}.yaml", nonsense=1)
    (tmp_path / "cpu.json").write_text('{"zero_optimization": {"stage": 3}}')
    monkeypatch.chdir(tmp_path)
    assert load_run(DEMO).optim.eps == 1e-8


def test_a_base_that_is_only_in_the_working_directory_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "here" / "base.yaml", extends=[DEMO])
    child = write(tmp_path / "there" / "child.yaml", extends=["base.yaml"])
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ConfigError, match=r"there is no .*base\.yaml \(extended by .*child\.yaml\)"):
        load_run(str(child))


@pytest.mark.parametrize(
    "name", ["x" * 300, "x" * 300 + ".yaml", "zero\0byte.yaml", "", ".", "..", "x/" * 3000, "demo"]
)
def test_a_name_that_no_file_has_is_one_error(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no run is called|there is no|is a folder"):
        load_run(name)


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("{}/nope", "there is no {}/nope", "name a YAML file, or a shipped run: `umt config` lists them"),
        ("{}/nope.yaml", "there is no {}/nope.yaml", "name a YAML file, or a shipped run: `umt config` lists them"),
        (
            "{}/nope/config.yaml",
            "there is no folder {}/nope, where {}/nope/config.yaml would lie",
            "`umt train` writes it into the folder of a run",
        ),
        (
            "{}",
            "{} is a folder, and no run's: it has no config.yaml",
            "name a YAML file, or a shipped run: `umt config` lists them",
        ),
        ("{}/notes.txt", "{}/notes.txt is no YAML file", "name a YAML file, or a shipped run: `umt config` lists them"),
    ],
)
def test_a_path_that_is_not_there_is_called_one_and_no_unknown_run(
    tmp_path: Path, name: str, said: str, hint: str
) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError) as raised:
        load_run(name.format(tmp_path))
    assert (raised.value.what, raised.value.hint) == (said.format(tmp_path, tmp_path), hint)


def test_the_folder_of_shipped_runs_is_told_which_these_are() -> None:
    for name in ("retrieval/msvd", "retrieval/msvd/"):
        with pytest.raises(ConfigError) as raised:
            load_run(name)
        assert (raised.value.hint or "").startswith("it is a folder of runs: retrieval/msvd/b16_17m, ")


def test_a_relative_path_that_is_not_there_is_called_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, said in (("./mine.yaml", "there is no mine.yaml"), ("jobs/x", "there is no folder jobs, where jobs/x")):
        with pytest.raises(ConfigError, match=said):
            load_run(name)


def test_a_folder_called_like_a_file_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"run\.yaml is a folder, not a file"):
        load_run(str(tmp_path / "run.yaml"))


def test_a_file_without_its_ending_and_the_folder_of_a_run_are_guessed(tmp_path: Path) -> None:
    write(tmp_path / "mine.yaml")
    write(tmp_path / "run" / "config.yaml")
    for name, guess in (("mine", "mine.yaml"), ("run", "run/config.yaml")):
        with pytest.raises(ConfigError) as raised:
            load_run(str(tmp_path / name))
        assert raised.value.hint == f"did you mean {tmp_path / guess}?"


# ---------------------------------------------------------------- variables


def test_variables_are_filled_in_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMT_X", "/big")
    source = {"shards": ["${env:UMT_X}/a.tar", "${env:UMT_X}/${env:UMT_X}.tar"], "samples": 3}
    run = write(tmp_path / "run.yaml", extends=[DEMO], data={"sources": {"demo": source}})
    assert load_run(str(run)).data.sources["demo"].shards == ("/big/a.tar", "/big//big.tar")
    assert load_run(DEMO, ["data.sources.demo.shards=['${env:UMT_X}.tar']"]).data.sources["demo"].names == ("/big.tar",)


@pytest.mark.parametrize("value", [None, "", "  ", "\n"])
@pytest.mark.parametrize("override", ["run_dir=${env:UMT_X}", "data.sources.demo.shards=[a.tar, '${env:UMT_X}/b.tar']"])
def test_an_empty_variable_is_named_like_one_that_is_not_set(
    monkeypatch: pytest.MonkeyPatch, override: str, value: str | None
) -> None:
    monkeypatch.delenv("UMT_X", raising=False)
    if value is not None:
        monkeypatch.setenv("UMT_X", value)
    with pytest.raises(
        ConfigError, match=r"environment variable UMT_X is (not set|empty) \(used in override"
    ) as raised:
        load_run(DEMO, [override])
    assert "export UMT_X=…" in str(raised.value.hint)
    looked_at = as_tree(load_run(DEMO, [override], keep_unset=True))
    assert "${env:UMT_X}" in str(flatten(looked_at)[override.partition("=")[0]])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "010"), ("seed", "08"), ("seed", "1:30"), ("seed", "1_000"), ("seed", "1e3"), ("seed", "true"),
        ("seed", "x"),
        ("stop_at", "null"), ("optim.lr", "1e-4"), ("optim.lr", ".inf"), ("data.augment.flip", "true"),
        ("run_dir", "null"),
        ("data.augment.flip", "on"), ("run_dir", "~"), ("stop_at", "~"),
        ("run_dir", "0100"), ("name", "1e5"), ("name", "400"), ("run_dir", "~/x"),
        ("run_dir", "a #b"),
        ("data.sources.demo.shards", "[a.tar, b.tar]"), ("task.teacher.weights", "random"),
        ("task.teacher.weights", "true"),
    ],
)  # fmt: skip
def test_a_variable_means_what_its_value_would_mean(key: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMT_X", value)
    assert _outcome(f"{key}=${{env:UMT_X}}") == _outcome(f"{key}={value}")
    assert _outcome(f"{key}='${{env:UMT_X}}'") == _outcome(f"{key}={value}"), "a flow mapping needs the quotes"


def _outcome(override: str) -> object:
    try:
        return flatten(as_tree(load_run(DEMO, [override])))[override.partition("=")[0]]
    except ConfigError:
        return "refused"


@pytest.mark.parametrize(
    "text", ["${HOME}/x", "$HOME/x", "$HOME", "${env:}", "${env:1X}", "${ENV:HOME}", "${env: HOME}"]
)
def test_a_variable_in_a_shell_s_words_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"run_dir: .* as a shell does") as raised:
        load_run(DEMO, [f"run_dir={text}"])
    assert raised.value.hint == "write ${env:NAME} for $NAME"


def test_a_variable_without_quotes_in_a_list_is_refused_with_the_way_to_write_it() -> None:
    with pytest.raises(ConfigError) as raised:
        load_run(DEMO, ["data.sources.demo.shards=[${env:UMT_X}]"])
    assert raised.value.hint == "inside [ ] and { } put ${env:…} in quotes"


def test_a_pipe_keeps_the_variables_of_its_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMT_X", "a b")
    config = load_run(
        DEMO, ["data.sources.demo.shards=pipe:cat $HOME/${NAME} ${env:UMT_X}", "data.sources.demo.samples=1"]
    )
    assert config.data.sources["demo"].shards == "pipe:cat $HOME/${NAME} a b"


@pytest.mark.parametrize("value", ["${env:HOME}", "$HOME/x", "${HOME}"])  # a file of docker's --env-file expands none
def test_a_variable_that_names_another_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMT_X", value)
    with pytest.raises(ConfigError, match=r"names another|as a shell does"):
        load_run(DEMO, ["run_dir=${env:UMT_X}"])


def test_a_number_may_be_put_together_from_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMT_X", "0")
    config = load_run(DEMO, ["seed=1${env:UMT_X}", "name=${env:UMT_X}${env:UMT_X}1"])
    assert (config.seed, config.name) == (10, "001")


def test_a_variable_that_says_null_leaves_the_schedule_in_the_unit_that_it_is_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UMT_X", "null")
    assert load_run(DEMO, ["schedule.epochs=${env:UMT_X}"]) == load_run(DEMO, ["schedule.epochs=null"])


# ---------------------------------------------------------------- paths


def test_the_tilde_is_the_home_folder_wherever_a_path_may_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    stage2 = [
        f"{key}=~/x"
        for key in ("run_dir", "task.teacher.weights", "task.text.weights", "task.text.vocabulary", "init.weights",
                    "init.resume_from", "data.cache.folder", "data.sources.clips.shards", "engine.deepspeed")
    ]  # fmt: skip
    leaves = flatten(as_tree(load_run("demo/stage2", [*stage2, "data.sources.pictures.shards=['~/a.tar', b~/c.tar]"])))
    assert {key.partition("=")[0]: leaves[key.partition("=")[0]] for key in stage2} == {
        key.partition("=")[0]: f"{tmp_path}/x" for key in stage2
    }
    assert leaves["data.sources.pictures.shards"] == [f"{tmp_path}/a.tar", "b~/c.tar"]


def test_a_tilde_alone_is_the_home_folder_in_an_override_and_null_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_run(DEMO, ["run_dir=~"]).run_dir == tmp_path  # as of bash, which writes it out, so of zsh
    (tmp_path / "run.yaml").write_text(f"extends: [{DEMO}]\nrun_dir: ~\n")
    assert load_run(str(tmp_path / "run.yaml")).run_dir is None
    with pytest.raises(ConfigError, match=r"optim.clip_grad: give a number or null \(got '~'"):
        load_run(DEMO, ["optim.clip_grad=~"])


@pytest.mark.parametrize("key", ["run_dir", "init.weights", "init.resume_from", "task.teacher.weights"])
@pytest.mark.parametrize("url", ["s3://bucket/x", "hf://user/model", "https://host/x.pt", "file:///x"])
def test_a_url_where_only_a_path_may_stand_is_no_folder(key: str, url: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: is a URL, and has to be a path on this machine \(got '{url}'"):
        load_run(DEMO, [f"{key}={url}"])


@pytest.mark.parametrize("key", ["run_dir", "name", "report.wandb", "task.teacher.weights"])
def test_true_is_no_text_unless_it_is_quoted(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: give .* \(got true, in override"):
        load_run(DEMO, [f"{key}=true"])
    load_run(DEMO, [f"{key}='true'"])


def test_without_a_home_folder_the_tilde_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umt_ds.environment.home", lambda: None)  # as in `docker run --user 54321`
    with pytest.raises(ConfigError, match=r"run_dir: you have no home folder \(HOME is not set\): write the path"):
        load_run(DEMO, ["run_dir=~/x"])
    with pytest.raises(ConfigError, match="run_dir: nobody-of-that-name has no home folder here"):
        load_run(DEMO, ["run_dir=~nobody-of-that-name/x"])


@pytest.mark.parametrize("value", ["", "''", '""', "' '", '"a\\0b"', '"a\\nb"', '"\\x1b[2J"'])
@pytest.mark.parametrize(
    "key", ["run_dir", "task.teacher.weights", "data.sources.demo.shards", "engine.deepspeed", "init.weights"]
)
def test_a_path_that_says_nothing_or_cannot_be_shown_is_refused(key: str, value: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^{key}: (give .*\(got nothing|holds a line break)|^{key}: give .* \(got ' '"
    ):
        load_run(DEMO, [f"{key}={value}"])


@pytest.mark.parametrize("name", ["..", ".", "-rf", ".hidden", "a/b", "n" * 101, "", "a\nb", "caf\u00e9"])
def test_a_name_is_fit_for_a_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name: "):
        load_run(str(write(tmp_path / "run.yaml", extends=[DEMO], name=name)))


def test_a_name_may_hold_a_variable_that_is_not_set_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UMT_X", raising=False)
    assert load_run(DEMO, ["name=job-${env:UMT_X}"], keep_unset=True).name == "job-${env:UMT_X}"
    with pytest.raises(ConfigError, match=r"name: environment variable UMT_X is not set"):
        load_run(DEMO, ["name=job-${env:UMT_X}"])
    with pytest.raises(ConfigError, match=r"name: is made of a to z, .* \(got 'a b', in override"):
        load_run(DEMO, ["name=a b"])


def test_a_name_that_looks_like_a_number_stays_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"extends: [{DEMO}]\nname: 0100\nrun_dir: 2024\n")
    config = load_run(str(tmp_path / "run.yaml"))
    assert (config.name, config.run_dir) == ("0100", Path("2024"))
    (tmp_path / "again.yaml").write_text(as_yaml(as_tree(config)))
    assert load_run(str(tmp_path / "again.yaml")) == config
