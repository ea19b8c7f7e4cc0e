"""Read all settings, once. Precedence: flag > environment > `es.toml` in the home > default.

Promise: each setting is known with its origin, and a wrong one is named. Refusal: nothing is opened or created.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from domain.kernel.errors import InvalidSetting

CONFIG_FILE = "es.toml"
_DEFAULTS = {
    "broker": "local:",
    "store": "sqlite:events.db",
    "database": "sqlite:read.db",
    "vault": "sqlite:vault.db",
    "kek_file": "",
    "autostart": "1",
    "features": "",
}
EVENTSTOREDB = ("esdb", "kurrentdb")
"""The beginnings of the URLs of an EventStoreDB. KurrentDB, its name from version 25 on, has another one."""
_SCHEMES = {
    "broker": ("local:", "amqp://", "amqps://"),
    "store": ("sqlite:", "esdb://", "esdb+discover://", "kurrentdb://", "kurrentdb+discover://"),
    "database": ("sqlite:", "postgresql://", "postgres://"),
    "vault": ("sqlite:", "postgresql://", "postgres://"),
}


class NotPrivate(InvalidSetting):
    """Another user can change a file or folder that this program obeys, or owns it. `field` says which."""

    code = "not-private"


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and its origin: `flag`, an environment variable, `es.toml` or `default`."""

    value: str
    source: str


@dataclass(frozen=True)
class Settings:
    """All settings of the program. The URLs of the parts have absolute paths; `sqlite:` stands for the default file."""

    home: Path
    broker: str
    store: str
    database: str
    vault: str
    kek_file: Path
    kek_is_ours: bool  # it is in the home, so it may be created on first start
    autostart: bool
    features: tuple[str, ...]
    """Modules of features from outside, see `domain.features`."""
    origins: Mapping[str, Setting]
    unknown: tuple[str, ...]
    """Variables that begin with ES_ and are no setting, by name. They may belong to another program."""

    @property
    def is_local(self) -> bool:
        """Whether requests use sockets in the home instead of a broker."""
        return self.broker.startswith("local:")

    @property
    def waits_for_servers(self) -> bool:
        """Whether the event store or the vault is a server, so that a worker mostly waits for it."""
        return not (self.store.startswith("sqlite:") and self.vault.startswith("sqlite:"))

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def log(self) -> Path:
        return self.home / "log"


def load_settings(*, home_flag: str | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings. Raises InvalidSetting with the name of a wrong one."""
    environment = os.environ if environment is None else environment
    home = _home(home_flag, environment)
    if os.path.exists(home.value) and not os.path.isdir(home.value):
        raise InvalidSetting("home", f"({home.source}) is not a folder: {home.value}")
    # Before its es.toml is read: the settings name programs to run and servers to send personal data to.
    check_private("the home", home.value)
    origins = {"home": home, **_given(environment, _read_file(Path(home.value) / CONFIG_FILE))}
    for name, schemes in _SCHEMES.items():
        if not origins[name].value.startswith(schemes):
            raise InvalidSetting(
                name, f"({origins[name].source}) must be a URL that starts with {' or '.join(schemes)}"
            )
    path = Path(home.value)
    for name in ("store", "database", "vault", "kek_file"):
        value = _DEFAULTS[name] if origins[name].value == "sqlite:" else origins[name].value
        origins[name] = Setting(_below(path, value), origins[name].source)
    kek = origins["kek_file"].value
    if not kek:
        origins["kek_file"] = Setting(str(path / "secrets" / "kek"), "default")
    return Settings(
        home=path,
        broker=origins["broker"].value,
        store=origins["store"].value,
        database=origins["database"].value,
        vault=origins["vault"].value,
        kek_file=Path(origins["kek_file"].value).expanduser(),
        kek_is_ours=not kek,
        autostart=_switch("autostart", origins["autostart"]),
        features=tuple(name for name in re.split(r"[,\s]+", origins["features"].value) if name),
        origins=origins,
        unknown=tuple(sorted(name for name in environment if name.startswith("ES_") and _is_unknown(name))),
    )


def _is_unknown(variable: str) -> bool:
    name = variable.removeprefix("ES_").lower()
    return name not in ("home", *_DEFAULTS) and not name.startswith("test_")


def similar_setting(name: str) -> str:
    """The variable of the setting that a name resembles; empty if it resembles none."""
    import difflib  # here: only a wrong name pays for it

    variables = [f"ES_{known.upper()}" for known in ("home", *_DEFAULTS)]
    return next(iter(difflib.get_close_matches(name.upper(), variables, 1, 0.75)), "")


def shared_by(settings: Settings) -> dict[str, str]:
    """The values in which a supervisor, its workers and `es up` have to agree, by name. They may contain passwords."""
    own = {"home", "autostart"} | ({"kek_file"} if settings.kek_is_ours else set())
    return {name: setting.value for name, setting in settings.origins.items() if name not in own}


def _given(environment: Mapping[str, str], from_file: Mapping[str, str]) -> dict[str, Setting]:
    given: dict[str, Setting] = {}
    for name, default in _DEFAULTS.items():
        variable = f"ES_{name.upper()}"
        if environment.get(variable):
            given[name] = Setting(environment[variable], variable)
        elif name in from_file:
            given[name] = Setting(from_file[name], CONFIG_FILE)
        else:
            given[name] = Setting(default, "default")
    return given


def _switch(name: str, setting: Setting) -> bool:
    for answer, words in ((True, ("1", "true", "yes", "on")), (False, ("0", "false", "no", "off"))):
        if setting.value.lower() in words:
            return answer
    raise InvalidSetting(name, f"({setting.source}) must be 1 or 0")


def _below(home: Path, value: str) -> str:
    """The value with a relative path made absolute in the home: workers have another working directory."""
    scheme, given = ("sqlite:", value.removeprefix("sqlite:")) if value.startswith("sqlite:") else ("", value)
    if not given or "://" in given or given.startswith(EVENTSTOREDB):
        return value
    return f"{scheme}{home / Path(given).expanduser()}"


_HARMLESS_OPTIONS = re.compile(
    # PostgreSQL
    "host|hostaddr|port|dbname|user|passfile|schema|application_name|connect_timeout|target_session_attrs|sslmode|sslrootcert"
    "|sslcert|sslkey|sslcrl|channel_binding|gssencmode|keepalives(_idle|_interval|_count)?|tcp_user_timeout"
    "|load_balance_hosts"
    # EventStoreDB and KurrentDB
    "|tls|tlsverifycert|tlscafile|nodepreference|maxdiscoverattempts|discoveryinterval|gossiptimeout|keepaliveinterval"
    "|keepalivetimeout|connectionname|defaultdeadline|usercertfile|userkeyfile"
    # RabbitMQ
    "|cafile|certfile|keyfile|heartbeat|(blocked_connection|socket|stack)_timeout|connection_attempts|retry_delay"
    "|channel_max|frame_max|locale",
    re.IGNORECASE,
)
"""Options of URLs whose values are shown. A misspelt `pasword` is not among them."""


def without_password(url: str) -> str:
    """A URL for display. It hides too much rather than too little: a URL may be one that its driver refuses."""
    scheme = re.match(r"(?!sqlite:|local:|memory:)[A-Za-z][A-Za-z0-9+.-]*:/*", url)
    if scheme is None:
        return url
    given, at, rest = url[scheme.end() :].rpartition("@")  # a password may contain some
    user = re.split(r"[:/?#,@]|%3a", given, maxsplit=1, flags=re.IGNORECASE)[0]
    hidden = "" if user == given else ":***"
    return f"{scheme[0]}{user}{hidden}{at}{_without_secrets(rest)}"


def _without_secrets(rest: str) -> str:
    """Host, path and query. An option that is not known to be harmless is hidden, and all that follows: it may belong to it."""
    from urllib.parse import unquote  # here: only displays need it

    for option in re.finditer(r"[?&;#]([^=?&;#]*)(=?)", rest):
        if not option[2] or not _HARMLESS_OPTIONS.fullmatch(unquote(option[1])):
            return f"{rest[: option.end() if option[2] else option.start() + 1]}***"
    return rest


def _home(flag: str | None, environment: Mapping[str, str]) -> Setting:
    if flag:
        return Setting(_absolute(flag, "flag"), "flag")
    if environment.get("ES_HOME"):
        return Setting(_absolute(environment["ES_HOME"], "ES_HOME"), "ES_HOME")
    data = environment.get("XDG_DATA_HOME", "")
    if not os.path.isabs(data):  # as its specification says, a relative one is ignored
        data = "~/.local/share"
    return Setting(os.path.join(_absolute(data, "default"), "es"), "default")


def _absolute(folder: str, source: str) -> str:
    """The absolute path of a folder. Raises InvalidSetting if that depends on something unknown."""
    if folder.startswith("~/") and not os.path.isabs(os.environ.get("HOME", "/")):
        reason = f"({source}) is unknown, because HOME is empty or relative"
        raise InvalidSetting("home", reason, "Set HOME, ES_HOME or --home.")
    found = os.path.expanduser(folder)
    if found.startswith("~"):
        reason = f"({source}) begins with {found.partition('/')[0]}, whose folder is unknown"
        raise InvalidSetting("home", reason, "Name the home with --home or ES_HOME.")
    try:
        return os.path.abspath(found)
    except OSError as error:
        reason = f"({source}) is relative, and the working folder is unknown: {error.strerror}"
        raise InvalidSetting("home", reason, "Change to another folder, or give an absolute path.") from error


def _read_file(path: Path) -> dict[str, str]:
    check_private("the settings file", path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InvalidSetting(str(path), f"cannot be read: {error.strerror}") from error
    import tomllib  # here: a home without a file does not pay for the import

    try:
        table = tomllib.loads(raw.decode())
    except ValueError as error:
        raise InvalidSetting(str(path), f"is not valid TOML: {error}") from error
    unknown = sorted(set(table) - set(_DEFAULTS))
    if unknown:
        meant = similar_setting(f"ES_{unknown[0]}").removeprefix("ES_").lower()
        hint = f"Did you mean {meant!r}? " if meant else ""
        raise InvalidSetting(
            str(path),
            f"has an unknown setting {unknown[0]!r}",
            f"{hint}Known are {', '.join(_DEFAULTS)}.",
        )
    return {name: str(value) for name, value in table.items()}


# --- who else can change a file --------------------------------------------------------------


def check_private(what: str, path: str | Path, *, sticky: bool = False) -> None:
    """Raise NotPrivate if another user than this one or root owns the file or folder, or can write to it.

    A missing one passes. `sticky`: a folder passes in which users can replace only their own files.
    """
    try:
        found = os.lstat(path)
        _check_owner(what, path, found)  # of a symbolic link: its owner chooses the file that is opened
        if stat.S_ISLNK(found.st_mode):
            found = os.stat(path)
            _check_owner(what, path, found)
    except OSError:
        return  # opening it fails, with the reason
    is_safe = sticky and found.st_mode & stat.S_ISVTX
    if not is_safe and (found.st_mode & 0o002 or (found.st_mode & 0o020 and not _is_own_group(found))):
        raise NotPrivate(
            f"{what} {path}",
            f"can be changed by other users (mode {stat.S_IMODE(found.st_mode):04o})",
            f"Look for changes that are not yours, then run `chmod go-w {quoted(path)}`, or choose another `--home`.",
        )


def _check_owner(what: str, path: str | Path, found: os.stat_result) -> None:
    me = os.geteuid()
    if found.st_uid in (0, me):
        return
    owner = _user_name(found.st_uid)
    raise NotPrivate(
        f"{what} {path}",
        f"belongs to the user {owner}, not to {_user_name(me)}",
        f"Run `es` as the user {owner}. Or look at what it contains, then run `chown -hR {me} {quoted(path)}`.",
    )


def _is_own_group(found: os.stat_result) -> bool:
    """Whether the group is that of one user alone, as systems with a umask of 002 create it."""
    import grp  # both for a file that a group can write to only: short commands must not pay for them
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(found.st_gid)
    except KeyError:
        return False
    return (
        user.pw_gid == group.gr_gid and group.gr_name == user.pw_name and not {*group.gr_mem} - {user.pw_name}
    )


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def quoted(path: str | Path) -> str:
    """A path as a word of the shell."""
    from shlex import quote

    return quote(str(path))


def readers_of(path: Path) -> str:
    """Who else than its owner can read a file, for a finding; empty if no other user can, or it is missing."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return ""
    return f"{path} can be read by other users (mode {mode:04o})" if mode & 0o044 else ""


def open_parents(folder: Path) -> list[str]:
    """The folders above a folder in which other users can rename or replace it."""
    found = []
    for parent in folder.parents:
        try:
            check_private("", parent, sticky=True)
        except NotPrivate:
            found.append(str(parent))
    return found
