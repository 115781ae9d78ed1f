"""MLflow's client, which waits for no server for ever: one that falls silent is given up within 10 s.

Over HTTP MLflow's requests have time limits. What speaks to databases has none that would hold: libpq's ends a
connection of which nothing is acknowledged, and a proxy, or the kernel of a machine whose server hangs, acknowledges.
So a call to a database server runs in a thread, and meanwhile the server is asked whether it answers.
"""

import threading
from collections.abc import Callable
from typing import Any

from pipeline.trackingstore import DATABASE_PORTS, answers, scheme

ASK_SECONDS = 2.0
CALL_SECONDS = 120.0  # for one call to a database server that answers others: a connection that was lost on the way


def client_of(uri: str) -> Any:
    """MLflow's client of the runs and registered models at an address; to connect may take seconds."""
    import mlflow

    if scheme(uri) not in DATABASE_PORTS:
        return mlflow.MlflowClient(uri, uri)
    return _Watched(while_it_answers(uri, lambda: mlflow.MlflowClient(uri, uri), CALL_SECONDS), uri)


class _Watched:
    """A client of a database server whose calls raise TimeoutError soon after the server has fallen silent."""

    def __init__(self, client: Any, uri: str) -> None:
        self._client, self._uri = client, uri

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found
        return lambda *arguments, **options: while_it_answers(
            self._uri, lambda: found(*arguments, **options), CALL_SECONDS
        )


def while_it_answers(uri: str, call: Callable[[], Any], limit_seconds: float | None = None) -> Any:
    """The result of a call to a server, however long it takes; of anything else that is no server too.

    Raises TimeoutError soon after the server has fallen silent, and after the limit. The call is left to itself then.
    """
    if scheme(uri) not in ("http", "https", *DATABASE_PORTS):
        return call()
    results: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    waited = 0.0
    while thread.is_alive():
        thread.join(ASK_SECONDS)
        waited += ASK_SECONDS
        if thread.is_alive() and (not answers(uri) or (limit_seconds is not None and waited >= limit_seconds)):
            raise TimeoutError("no answer any more")
    if errors:
        raise errors[0]
    return results[0]
