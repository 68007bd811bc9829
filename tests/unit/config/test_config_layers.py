from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimq.config import BUILT_IN, Config, load, settings
from slimq.errors import ConfigError

SECRET = "whsec_" + "c2xpbXEtY2FuYXJ5LXNlY3JldC0xMjM0NTY3OA=="

LAYERS = ("default.toml", "production.toml", "local.toml", "variable", "flag")


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, "utf-8")


def config_of(folder: Path, said_by: tuple[str, ...]) -> Config:
    """Load a configuration in which each layer of `said_by` sets the port to its own number."""
    ports = {layer: 4001 + number for number, layer in enumerate(LAYERS)}
    for layer in said_by:
        if layer.endswith(".toml"):
            write(folder, layer, f"[server]\nport = {ports[layer]}\n")
    environ = {"SLIMQ_ENV": "production"}
    if "variable" in said_by:
        environ["SLIMQ_SERVER__PORT"] = str(ports["variable"])
    flags = {"server.port": ports["flag"] if "flag" in said_by else None}
    return load(flags, environ, folder)


@pytest.mark.parametrize("number", range(1 << len(LAYERS)))
def test_of_all_layers_that_say_a_value_the_last_one_wins(tmp_path: Path, number: int) -> None:
    said_by = tuple(layer for bit, layer in enumerate(LAYERS) if number >> bit & 1)
    config = config_of(tmp_path, said_by)
    if not said_by:
        assert (config.server.port, config.origins()["server.port"]) == (3001, BUILT_IN)
        return
    winner = said_by[-1]
    assert config.server.port == 4001 + LAYERS.index(winner)
    named = {"variable": "SLIMQ_SERVER__PORT", "flag": "--port"}
    assert config.origins()["server.port"] == named.get(winner, str(tmp_path / winner))


def test_a_layer_changes_only_the_settings_that_it_names(tmp_path: Path) -> None:
    write(tmp_path, "default.toml", '[server]\nport = 4001\nhost = "::1"\n')
    write(tmp_path, "local.toml", "[server]\nport = 4002\n")
    config = load({}, {}, tmp_path)
    assert (config.server.host, config.server.port) == ("::1", 4002)


def test_the_environment_is_development_unless_said_and_the_flag_goes_first(
    tmp_path: Path,
) -> None:
    for number, name in enumerate(("development", "staging", "production")):
        write(tmp_path, f"{name}.toml", f"[server]\nport = {4001 + number}\n")
    assert load({}, {}, tmp_path).server.port == 4001
    assert load({}, {"SLIMQ_ENV": "staging"}, tmp_path).server.port == 4002
    config = load({}, {"SLIMQ_ENV": "staging"}, tmp_path, "production")
    assert (config.server.port, config.env) == (4003, "production")


@pytest.mark.parametrize("env", ["../local", "a/b", ".hidden", "x" * 65, "a\nb"])
def test_an_environment_that_is_no_plain_name_is_refused(tmp_path: Path, env: str) -> None:
    with pytest.raises(ConfigError, match="SLIMQ_ENV"):
        load({}, {"SLIMQ_ENV": env}, tmp_path)


def test_without_files_and_variables_the_defaults_hold(tmp_path: Path) -> None:
    config = load({}, {}, tmp_path / "missing")
    assert config.server.drain_ms == 25_000
    assert config.store.bytes_max == 10 << 30
    assert config.accept.body_max == 128 << 20
    assert config.journal.retain_ms == 15 * 60_000
    assert (config.run.http_slots, config.run.exec_slots) == (64, 0)
    assert config.http.allow == ()
    assert config.purge.failed_ms == 30 * 86_400_000
    assert set(config.origins().values()) == {BUILT_IN}
    assert config.origins().keys() == settings().keys() == config.shown.keys()


def test_the_store_is_in_the_data_folder_unless_it_has_a_path(tmp_path: Path) -> None:
    config = load({"data.path": "/d"}, {}, tmp_path)
    assert config.store_path == Path("/d/store.db")
    assert config.journal_path == Path("/d/journal")
    assert config.secret_path == Path("/d/webhook.secret")
    shared = load({"data.path": "/d"}, {"SLIMQ_STORE__PATH": "/s/jobs.db"}, tmp_path)
    assert shared.store_path == Path("/s/jobs.db")
    again = load({}, {"SLIMQ_STORE__PATH": ""}, tmp_path)
    assert again.store_path == Path(".slimq/store.db")


def test_a_configuration_cannot_be_changed(tmp_path: Path) -> None:
    config = load({}, {}, tmp_path)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.server.port = 1  # type: ignore[misc]


def test_lists_are_lists_in_files_and_have_commas_in_variables(tmp_path: Path) -> None:
    write(tmp_path, "local.toml", '[http]\nallow = ["10.0.0.0/8", "::1"]\n')
    networks = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128"))
    assert load({}, {}, tmp_path).http.allow == networks
    environ = {"SLIMQ_HTTP__ALLOW": "192.168.0.0/16, fd00::/8"}
    assert [str(each) for each in load({}, environ, tmp_path).http.allow] == [
        "192.168.0.0/16",
        "fd00::/8",
    ]
    assert load({}, {"SLIMQ_HTTP__ALLOW": ""}, tmp_path).http.allow == ()


def test_secrets_are_read_but_never_shown(tmp_path: Path) -> None:
    config = load({}, {"SLIMQ_HTTP__SECRETS": f"{SECRET},{SECRET}"}, tmp_path)
    assert config.http.secrets == (SECRET, SECRET)
    assert config.shown["http.secrets"] == "***"
    assert "whsec_" not in f"{config!r} {config} {config.http!r}"


def test_variables_that_platforms_set_for_a_service_called_slimq_are_no_settings(
    tmp_path: Path,
) -> None:
    environ = {
        "SLIMQ_PORT": "tcp://10.0.0.1:3001",
        "SLIMQ_SERVICE_HOST": "10.0.0.1",
        "SLIMQ_PORT_3001_TCP_ADDR": "10.0.0.1",
        "SLIMQ_URL": "http://127.0.0.1:3001",
        "OTHER__NAME": "1",
    }
    assert set(load({}, environ, tmp_path).origins().values()) == {BUILT_IN}


def each_setting_says(value: Any) -> Callable[[str], str]:
    return lambda name: f"[{name.partition('.')[0]}]\n{name.partition('.')[2]} = {value}\n"


@pytest.mark.parametrize("name", settings())
@pytest.mark.parametrize("wrong", ["1.5", "true", "[1]", "2026-11-24", "{a = 1}"])
def test_a_value_of_the_wrong_type_names_file_and_setting(
    tmp_path: Path, name: str, wrong: str
) -> None:
    write(tmp_path, "local.toml", each_setting_says(wrong)(name))
    with pytest.raises(ConfigError) as caught:
        load({}, {}, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'local.toml'}: {name}: ")
    assert settings()[name].kind.rule in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("server.port", "-1"),
        ("server.port", "65536"),
        ("server.port", "3001.0"),
        ("server.port", "1_000"),
        ("server.port", "٣٠٠١"),
        ("server.port", "9" * 5000),
        ("server.port", ""),
        ("server.host", ""),
        ("server.host", "127.0.0.1\nforged"),
        ("server.drain", "25"),
        ("server.drain", "61m"),
        ("data.path", ""),
        ("data.path", "a\0b"),
        ("store.bytes_max", "10GB"),
        ("store.bytes_max", "63MiB"),
        ("store.bytes_max", "65TiB"),
        ("accept.body_max", "1KiB"),
        ("journal.retain", "31d"),
        ("run.http_slots", "0"),
        ("run.exec_slots", "1001"),
        ("functions.slots", "65"),
        ("functions.memory", "63MiB"),
        ("functions.idle", "0s"),
        ("http.allow", "10.0.0.1/8"),
        ("http.allow", "example.com"),
        ("purge.ok", "0s"),
        ("log.level", "debug"),
    ],
)
def test_a_value_out_of_bounds_names_the_variable_the_setting_and_the_rule(
    tmp_path: Path, name: str, wrong: str
) -> None:
    row = settings()[name]
    with pytest.raises(ConfigError) as caught:
        load({}, {row.variable: wrong}, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{row.variable}: {name}: {row.kind.rule}")
    assert message.isprintable()
    assert len(message) < 400


def test_a_wrong_flag_is_named_as_it_was_typed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--port: server\.port: .*found 'http'$"):
        load({"server.port": "http"}, {}, tmp_path)


def test_a_wrong_value_is_found_also_where_a_later_layer_overrides_it(tmp_path: Path) -> None:
    write(tmp_path, "default.toml", "[server]\nport = 70000\n")
    with pytest.raises(ConfigError, match=r"default\.toml"):
        load({"server.port": 3001}, {}, tmp_path)


@pytest.mark.parametrize(
    "wrong", ["whsec_c2hvcnQ=", SECRET.removeprefix("whsec_"), "whsec_", "whsec_!!" + SECRET[6:]]
)
def test_a_wrong_secret_is_not_repeated(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, {"SLIMQ_HTTP__SECRETS": wrong}, tmp_path)
    assert "SLIMQ_HTTP__SECRETS: http.secrets: " in str(caught.value)
    assert wrong.removeprefix("whsec_") not in str(caught.value) or wrong == "whsec_"


@pytest.mark.parametrize(
    "wrong",
    [
        "postgresql://u:ca/nary@h/db",
        "postgresql://u:ca#nary@h/db",
        "postgresql://u:ca?nary@h/db",
        "postgresql://u:ca@nary@h/db",
        "postgresql://u:ca:nary@h/db",
        "postgresql://u:canary@[h/db",
        "mysql://u:canary@h/db",
    ],
)
def test_a_database_url_whose_password_cannot_be_told_apart_is_refused_and_not_repeated(
    tmp_path: Path, wrong: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load({"store.url": wrong}, {}, tmp_path)
    assert "--store-url: store.url: " in str(caught.value)
    assert "nary" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:can%2Fary@h:5432/db?sslmode=require", "postgresql://u@h:5432/db"),
        ("postgres://u:canary@h1:5432,h2:5432/db", "postgres://u@h1:5432,h2:5432/db"),
        ("postgresql://[::1]/db", "postgresql://[::1]/db"),
        ("postgresql:///db?host=/var/run", "postgresql:///db"),
    ],
)
def test_a_database_url_is_shown_without_its_password(tmp_path: Path, url: str, shown: str) -> None:
    assert load({"store.url": url}, {}, tmp_path).store_shown == shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nprot = 1\n", "there is no setting 'server.prot'; did you mean server.port?"),
        ("[server]\nretain = '1h'\n", "there is no setting 'server.retain'; did you mean"),
        ("[sever]\nport = 1\n", "there is no section 'sever'; did you mean server?"),
        (
            "[zzz]\nport = 1\n",
            "there is no section 'zzz'; there are accept, data, environments, functions, http",
        ),
        ("port = 1\n", "there is no section 'port'"),
        ("server = 1\n", "server is a section: write [server]"),
        ("[[server]]\nport = 1\n", "server is a section: write [server]"),
        ("[server.port]\nx = 1\n", "server.port: a whole number"),
        ('[server]\n"a\\nb" = 1\n', r"there is no setting 'server.a\nb'"),
        ("[server\n", "not TOML: "),
        ("[server]\nport = 1\nport = 2\n", "not TOML: "),
        (f"[server]\nport = {'9' * 5000}\n", "not TOML that can be read: "),
        (f"x = {'[' * 100_000}\n", "not TOML that can be read: "),
    ],
)
def test_what_is_unknown_or_malformed_names_the_file_and_what_was_meant(
    tmp_path: Path, text: str, message: str
) -> None:
    write(tmp_path, "local.toml", text)
    with pytest.raises(ConfigError) as caught:
        load({}, {}, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'local.toml'}: ")
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("SLIMQ_SERVER__PROT", "SLIMQ_SERVER__PORT"),
        ("SLIMQ_server__port", "SLIMQ_SERVER__PORT"),
        ("SLIMQ__SERVER__PORT", "SLIMQ_SERVER__PORT"),
        ("SLIMQ_PURGE__OKAY", "SLIMQ_PURGE__OK"),
    ],
)
def test_an_unknown_variable_is_an_error_that_names_the_nearest(
    tmp_path: Path, variable: str, meant: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, {variable: "1"}, tmp_path)
    assert f"'{variable}'; did you mean {meant}?" in str(caught.value) or (
        f"'{variable}'; there are" in str(caught.value) and meant in str(caught.value)
    )


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "local.toml").mkdir()
    with pytest.raises(ConfigError, match=r"local\.toml: cannot be read: Is a directory"):
        load({}, {}, tmp_path)
    (tmp_path / "local.toml").rmdir()
    (tmp_path / "local.toml").write_bytes(b'a = "\xff"')
    with pytest.raises(ConfigError, match=r"local\.toml: not TOML: it is not UTF-8"):
        load({}, {}, tmp_path)


def test_a_node_has_all_roles_unless_it_is_said_which(tmp_path: Path) -> None:
    def roles(flag: str | None = None, **environ: str) -> tuple[str, ...]:
        return load({"server.roles": flag}, environ, tmp_path).server.roles

    assert roles() == ("accept", "run")
    assert roles(SLIMQ_SERVER__ROLES="accept") == ("accept",)
    assert roles("run", SLIMQ_SERVER__ROLES="accept") == ("run",)
    assert roles("run, accept") == ("run", "accept")
    for wrong in ("", "accept,accept", "both", "accept,"):
        with pytest.raises(ConfigError, match="one or more of accept, run"):
            roles(wrong)


def test_the_first_worker_has_the_data_folder_and_the_others_have_folders_in_it(
    tmp_path: Path,
) -> None:
    config = load({"data.path": "d"}, {}, tmp_path)
    third = dataclasses.replace(config, worker=3)
    assert config.journal_path == Path("d/journal")
    assert third.journal_path == Path("d/nodes/3/journal")
    assert third.store_path == config.store_path == Path("d/store.db")
    assert third.secret_path == config.secret_path


@pytest.mark.parametrize("workers", ["0", "65", "x", "-1"])
def test_there_are_1_to_64_workers(tmp_path: Path, workers: str) -> None:
    with pytest.raises(ConfigError, match=r"--workers: server\.workers: a whole number"):
        load({"server.workers": workers}, {}, tmp_path)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_without_a_sandbox_a_node_listens_on_loopback_only(tmp_path: Path, host: str) -> None:
    flags = {"functions.sandbox": "off", "server.host": host}
    with pytest.raises(ConfigError, match="without a sandbox a node listens on loopback"):
        load(flags, {}, tmp_path)
    assert load({"server.host": host}, {}, tmp_path).functions.sandbox == "on"
    for loopback in ("127.0.0.1", "::1", "localhost"):
        assert load(flags | {"server.host": loopback}, {}, tmp_path).functions.sandbox == "off"


def test_environments_have_the_names_that_the_operator_gives_them(tmp_path: Path) -> None:
    write(
        tmp_path,
        "default.toml",
        '[environments.imaging]\npython = "/a"\n[environments.ml]\npython = "/b"\n',
    )
    config = load({}, {"SLIMQ_ENVIRONMENTS__IMAGING": "/c"}, tmp_path)
    assert config.environments == {"imaging": "/c", "ml": "/b"}
    assert config.shown["environments.imaging"] == {"python": "/c"}
    assert config.origins()["environments.imaging"] == "SLIMQ_ENVIRONMENTS__IMAGING"
    assert load({}, {}, tmp_path / "none").environments == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[environments]\nimaging = "/a"\n', "a table such as"),
        ("[environments.imaging]\n", "a table such as"),
        ('[environments.imaging]\npython = ""\n', "a table such as"),
        ('[environments.imaging]\npython = "/a"\npath = "/b"\n', "a table such as"),
        ('[environments.Imaging]\npython = "/a"\n', "names no environment: a small letter"),
    ],
)
def test_an_environment_that_is_written_wrong_is_refused(
    tmp_path: Path, text: str, why: str
) -> None:
    write(tmp_path, "default.toml", text)
    with pytest.raises(ConfigError, match=why):
        load({}, {}, tmp_path)
