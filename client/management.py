"""The client of TorchServe's management API."""

from collections.abc import Callable
from typing import Any

from satrap.client.call import Metadata
from satrap.client.connected import ConnectedClient
from satrap.client.deployment import Deployed, deploy
from satrap.client.descriptions import (
    ModelDescription,
    ModelPage,
    SparseNeed,
    parse_descriptions,
    parse_page,
)
from satrap.client.retry import DEFAULT_RETRY, NO_RETRY, Retry
from satrap.errors import NotFoundError
from satrap.protos import management_pb2, management_pb2_grpc
from satrap.tls import Tls

__all__ = ["ManagementClient"]


class ManagementClient(ConnectedClient):
    """Registers, describes and removes models, over gRPC.

    Speaks to satrap and to TorchServe alike. Connects at the first call; safe for several threads.

        with ManagementClient("127.0.0.1:7071") as management:
            management.register("deepctr_v2.mar")
            management.set_default("deepctr", "2")

    Reading, scaling and SetDefault are tried again when the server is unavailable: doing them twice is doing
    them once. Register and unregister are not.

    Every method raises `SatrapError`: `NotFoundError` for a model, version or archive that is not there,
    `InvalidInputError` for an archive or argument that is refused, `ConflictError` for a version that is
    registered already, `UnavailableError`, `DeadlineError`, otherwise `RemoteError`.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:7071",
        *,
        timeout: float = 300.0,
        metadata: Metadata | None = None,
        retry: Retry = DEFAULT_RETRY,
        tls: Tls | None = None,
    ) -> None:
        """Prepare a channel; nothing is sent yet.

        Args:
            address: `host:port` or `unix:path`.
            timeout: Seconds that a call may take. Registering waits for the worker to load its model,
                unregistering for the requests that were accepted.
            metadata: Headers of every call.
            retry: When an unavailable server is tried again.
            tls: For a server that speaks TLS: whom to believe, and what to show if it asks for a certificate.

        Raises:
            InvalidInputError: a file of `tls` cannot be read.
        """
        super().__init__(address, timeout=timeout, metadata=metadata, retry=retry, tls=tls)
        self._stub: Any = management_pb2_grpc.ManagementAPIsServiceStub(self._channel)

    def register(
        self,
        url: str,
        *,
        model_name: str = "",
        handler: str = "",
        runtime: str = "",
        initial_workers: int = 1,
        batch_size: int = 0,
        max_batch_delay: int = 0,
        response_timeout: int = 0,
        startup_timeout: int = 0,
        synchronous: bool = True,
    ) -> str:
        """Register a model's version; the first one of a model becomes its default. Return the server's sentence.

        Args:
            url: The archive: a file name in the model store, or a URL that the server allows.
            model_name: Another name than the archive's.
            handler: Another handler than the archive's.
            runtime: Another runtime than the archive's.
            initial_workers: Workers to start; 0 leaves it to the server.
            batch_size: Requests that the handler gets at once; 0: the archive's or the server's.
            max_batch_delay: Milliseconds that a request waits for others; 0 likewise.
            response_timeout: Seconds that a worker may take for an answer; 0 likewise.
            startup_timeout: Seconds that a worker may take to load the model; 0 likewise.
            synchronous: Return when the workers are ready; otherwise at once.
        """
        request = management_pb2.RegisterModelRequest(
            url=url,
            model_name=model_name,
            handler=handler,
            runtime=runtime,
            initial_workers=initial_workers,
            batch_size=batch_size,
            max_batch_delay=max_batch_delay,
            response_timeout=response_timeout,
            startup_timeout=startup_timeout,
            synchronous=synchronous,
        )
        return self._ask(self._stub.RegisterModel, request, NO_RETRY)

    def deploy(
        self,
        url: str,
        *,
        model_name: str = "",
        workers: int = 0,
        batch_size: int = 0,
        max_batch_delay: int = 0,
        keep: int = 0,
        on_step: Callable[[str], None] = lambda sentence: None,
    ) -> Deployed:
        """Register a new version, wait until it is ready, make it the default, and remove the older ones.

        If anything fails the older versions are still there. A version that needs a sequence of its embeddings is made
        the default when it answers.

        Args:
            url: As for `register`.
            model_name: As for `register`.
            workers: Workers of the new version; 0: what the archive or the server says, at least as many as the version
                that is the default now.
            batch_size: As for `register`.
            max_batch_delay: As for `register`.
            keep: How many of the older versions stay, the last registered ones.
            on_step: Gets a sentence after each step.

        Raises:
            ConflictError: that version is registered already: give the archive a version of its own.
            DeadlineError: it still waits for its embeddings; it stays registered, and is not the default.
        """
        return deploy(
            self,
            url,
            model_name=model_name,
            workers=workers,
            batch_size=batch_size,
            max_batch_delay=max_batch_delay,
            keep=keep,
            on_step=on_step,
        )

    def unregister(self, model: str, version: str = "") -> str:
        """Remove a version (empty: the default one) when its accepted requests are answered."""
        request = management_pb2.UnregisterModelRequest(model_name=model, model_version=version)
        return self._ask(self._stub.UnregisterModel, request, NO_RETRY)

    def set_default(self, model: str, version: str) -> str:
        """Make a version the one that answers requests which name none."""
        request = management_pb2.SetDefaultRequest(model_name=model, model_version=version)
        return self._ask(self._stub.SetDefault, request)

    def scale(
        self,
        model: str,
        *,
        min_workers: int,
        max_workers: int = 0,
        version: str = "",
        synchronous: bool = True,
    ) -> str:
        """Change how many workers a version has.

        `max_workers` 0 means as many as `min_workers`. Over gRPC TorchServe takes a `min_workers` of 0 for
        "not given" and keeps one worker.
        """
        request = management_pb2.ScaleWorkerRequest(
            model_name=model,
            model_version=version,
            min_worker=min_workers,
            max_worker=max_workers,
            synchronous=synchronous,
        )
        return self._ask(self._stub.ScaleWorker, request)

    def describe(
        self, model: str, version: str = "", *, customized: bool = False
    ) -> tuple[ModelDescription, ...]:
        """The default version, the one named, or every version (`"all"`).

        `customized` asks a worker as well: what the handler tells is in `document["customizedMetadata"]`.
        """
        request = management_pb2.DescribeModelRequest(
            model_name=model, model_version=version, customized=customized
        )
        return parse_descriptions(self._ask(self._stub.DescribeModel, request))

    def list_models(self, *, limit: int = 100, next_page_token: int = 0) -> ModelPage:
        """Models by name, `limit` of them (100 at most), beginning at a token of the page before."""
        request = management_pb2.ListModelsRequest(limit=limit, next_page_token=next_page_token)
        return parse_page(self._ask(self._stub.ListModels, request))

    def sparse_needs(self) -> tuple[SparseNeed, ...]:
        """Which versions answer that need a sequence of their embeddings, of all models by name.

        A model that is unregistered meanwhile is left out. Those that still wait need nothing yet.
        """
        needs: list[SparseNeed] = []
        token: int | None = 0
        while token is not None:
            page = self.list_models(next_page_token=token)
            for entry in page.models:
                try:
                    versions = self.describe(entry.name, "all")
                except NotFoundError:
                    continue
                needs += [
                    SparseNeed(version.name, version.version, version.sparse_sequence)
                    for version in versions
                    if version.sparse_sequence is not None and not version.is_waiting
                ]
            token = page.next_page_token
        return tuple(needs)

    def _ask(self, method: Any, request: Any, retry: Retry | None = None) -> str:
        return str(self._call(method, request, retry=retry).msg)
