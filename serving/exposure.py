"""Who may reach a serving process, decided before it listens: tokens and TLS beyond this machine.

Every API on a loopback address may be open. Elsewhere it is encrypted, and asks for a token or for a client's
certificate, unless the user has said that the network is theirs.
"""

from collections.abc import Iterator

from satrap.config.global_config import ServingConfig, TlsConfig
from satrap.errors import InvalidInputError
from satrap.serving.listening import Address, Listening
from satrap.tls import Tls

__all__ = ["addresses", "asks_for_tokens", "by_reach", "check_exposure", "serving_tls"]


def serving_tls(config: TlsConfig) -> Tls | None:
    """The files of a server; None if it has no certificate."""
    if not config.certificate and not config.keystore:
        return None
    return Tls(
        config.certificate,
        config.private_key,
        config.client_authority,
        config.keystore,
        config.keystore_password,
    )


def addresses(listening: Listening) -> Iterator[tuple[str, Address]]:
    """Each API that is served, by its name for people, with its address."""
    named = (
        ("gRPC inference", listening.grpc_inference),
        ("gRPC management", listening.grpc_management),
        ("REST inference", listening.rest_inference),
        ("REST management", listening.rest_management),
        ("metrics", listening.metrics),
    )
    yield from ((name, address) for name, address in named if address is not None)


def asks_for_tokens(config: ServingConfig, listening: Listening, *, insecure: bool) -> bool:
    """Whether calls need a token: as configured, otherwise if any API is beyond loopback and not `insecure`."""
    if config.token.enabled is not None:
        return config.token.enabled
    return not insecure and any(not address.is_local for _, address in addresses(listening))


def by_reach(config: ServingConfig, listening: Listening, *, model_api_said: bool) -> ServingConfig:
    """What a config.properties leaves open, decided by who can reach the server.

    On loopback calls need no token and models may be registered, as natively; if any API is beyond it TorchServe's
    defaults hold: tokens, and no model API. `model_api_said`: a file or a flag has decided that one.
    """
    is_local = all(address.is_local for _, address in addresses(listening))
    changed: dict[str, object] = {}
    if config.token.enabled is None:
        changed["token"] = config.token.model_copy(update={"enabled": not is_local})
    if not model_api_said:
        changed["model_api"] = is_local
    return config.model_copy(update=changed)


def check_exposure(config: ServingConfig, listening: Listening, *, insecure: bool, remedy: str) -> None:
    """Refuse to listen beyond this machine without encryption, or without asking who calls.

    `remedy`: what the user can say to have it nevertheless, for the sentence.

    Raises:
        InvalidInputError: which address, what it lacks, and what to do; or a certificate that cannot be used.
    """
    tls = serving_tls(config.tls)
    if tls is not None:
        tls.check()
    by_place: dict[tuple[str, int], tuple[str, Address]] = {}
    for name, address in addresses(listening):
        place = address.place
        other, there = by_place.setdefault(place, (name, address)) if place else (name, address)
        if there.tls != address.tls:
            raise InvalidInputError(
                f"the {other} and {name} APIs share {address}, and only one of them is to be served by TLS: write "
                "https for both, or give each a port of its own"
            )
        if address.tls and tls is None:
            raise InvalidInputError(
                f"the {name} API on {address} is to be served by TLS, and there is no certificate: name certificate "
                "and private key, or a keystore (serving.tls in global_config.yaml; certificate_file and "
                "private_key_file, or keystore, in config.properties)"
            )
        if insecure or address.is_local:
            continue
        if not address.tls:
            raise InvalidInputError(
                f"refusing to serve the {name} API on {address} without TLS: everybody on the way could read and "
                f"change what is sent. Use a loopback address, name a certificate, or {remedy}"
            )
        known = asks_for_tokens(config, listening, insecure=insecure) or bool(config.tls.client_authority)
        if not known and name != "metrics":
            raise InvalidInputError(
                f"refusing to serve the {name} API on {address} to anybody: leave token authorization on, or ask for "
                f"client certificates (serving.tls.client_authority), or {remedy}"
            )
