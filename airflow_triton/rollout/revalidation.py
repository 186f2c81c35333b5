"""Another look at what serves: the released version is held against its spec again, on every server. Nothing is staged or promoted."""

from __future__ import annotations

from airflow_triton import repository
from airflow_triton.errors import RepositoryError, ServerError
from airflow_triton.repository import Release
from airflow_triton.rollout.pipeline import Rollout
from airflow_triton.rollout.records import Candidate, Converted
from airflow_triton.validation import ValidationReport


def revalidate(rollout: Rollout) -> ValidationReport:
    """Ask the released version, under its production name, what the spec asks a candidate now, and answer the report.

    The checks send their requests to what serves: those of `latency` are a load beside that of the clients. There is no champion to
    compare with. The report is kept in MLflow beside that of the promotion, which stays; its figures continue the same metrics, and the
    version is tagged with `triton.NAME.revalidation` (passed or failed), `.revalidation_why` and `.revalidation_at`.

    Raises:
        RepositoryError: nothing is released, it was taken over and is no MLflow model, or its manifest is gone or damaged.
        ServerError: a server does not serve just the released version, or does not answer.
        ValidationDataError, RegistryError: as in a deployment.

    """
    name = rollout.spec.name
    rollout.check_declared()
    rollout.servers.check(repository.mode_probe(name))
    release, live = _released(rollout)
    for fleet in rollout.fleets:
        found = repository.releases(fleet.store, name)
        lacking = fleet.servers.lacking(name, found[-1].versions) if found else []
        if not found or not found[-1].is_same_as(release) or lacking:
            late = ", ".join(str(client.address) for client in lacking) or str(fleet.store)
            raise ServerError(
                f"{late} does not serve version {release.version} of `{name}`, which is released: `airflow-triton status` tells"
            )
    rollout.progress(f"revalidate: version {release.version} of `{name}`, which serves")
    report = _examined(rollout, live)
    report, warnings = rollout.reports.keep(report, live.converted.source, again=True)
    for warning in warnings + rollout.verdicts.revalidated(live.converted.source, report):
        rollout.progress(f"warning: {warning}")
    return report.brief()


def _examined(rollout: Rollout, live: Candidate) -> ValidationReport:
    examination = rollout.examination
    examination.servers = rollout.servers
    try:
        return examination.report(live, list)
    except ServerError as error:
        return examination.unanswered(live, error)


def _released(rollout: Rollout) -> tuple[Release, Candidate]:
    """The release that serves, and the same as if it were a candidate."""
    name, store = rollout.spec.name, rollout.store
    found = repository.releases(store, name)
    if not found:
        raise RepositoryError(f"`{name}` has no releases in {store}: there is nothing to validate again")
    release = found[-1]
    manifest = store.manifest(name, release.version)
    if manifest is None or not manifest.is_of(release.servable_id) or manifest.source is None or manifest.servable is None:
        raise RepositoryError(
            f"version {release.version} of `{name}` in {store} cannot be validated again: it was taken over, not deployed from MLflow, "
            "or its manifest is gone"
        )
    converted = Converted(source=manifest.source, servable_id=manifest.servable_id, servable=manifest.servable, files=manifest.files)
    return release, Candidate(id=release.id, name=name, converted=converted, config=release.config, before=None)
