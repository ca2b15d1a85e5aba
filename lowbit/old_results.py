"""What an older results.json becomes in today's schema. What it does not say stays null.

Schema 1 named the processor by its model name alone, and had the GPU's state as nvidia-smi prints it. Up to schema 8 the
images that changed most were ``pictures``, and a layer's leave-one-out SQNR was ``spared_db``. Up to schema 13 recall was
that at a confidence of 0.25, whatever the user deployed. Up to schema 17 one larger batch was timed.
"""

from __future__ import annotations

from typing import Any

from lowbit import host


def upgrade(data: dict[str, Any], schema: int) -> dict[str, Any]:
    """The content of a file of ``schema`` in today's fields. Damage is left as it is, for the schema to refuse.

    Raises ``ValueError`` for a state of a GPU that is none.
    """
    if schema == 1:
        data = _of_schema_1(data)
    if schema < 9:
        data = _renamed(data)
    if schema < 14:
        data = _with_confidence(data)
    return _with_batches(data) if schema < 18 else data


def _with_batches(data: dict[str, Any]) -> dict[str, Any]:
    for entry in _objects(data, "entries"):
        latency = entry.get("latency")
        if isinstance(latency, dict) and isinstance(one := latency.get("batched"), dict):
            latency["batched"] = [one]
    return data


def _with_confidence(data: dict[str, Any]) -> dict[str, Any]:
    for entry in _objects(data, "entries"):
        if entry.get("recall") is not None:
            entry["confidence"] = 0.25
    return data


def _renamed(data: dict[str, Any]) -> dict[str, Any]:
    """Fields of entries and of ranked layers by their names of today."""
    for entry in _objects(data, "entries"):
        if "pictures" in entry:
            entry["changed_images"] = entry.pop("pictures")
    for sweep in _objects(data, "sweeps"):
        for layer in _objects(sweep, "layers"):
            if "spared_db" in layer:
                layer["leave_one_out_db"] = layer.pop("spared_db")
    return data


def _objects(data: dict[str, Any], field: str) -> list[dict[str, Any]]:
    """The objects in a field that should be a list of them."""
    found = data.get(field)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _of_schema_1(data: dict[str, Any]) -> dict[str, Any]:
    environment = _environment(data.get("environment"))
    # Of shards that were merged it is not known which one measured what.
    merged = isinstance(environment, dict) and "others" in environment
    measured_on = environment.get("host") if isinstance(environment, dict) and not merged else None
    entries = data.get("entries")
    if isinstance(entries, list):
        entries = [_entry(entry, measured_on) for entry in entries]
    return {**data, "environment": environment, "entries": entries}


def _environment(found: Any) -> Any:
    cpu = found.get("cpu") if isinstance(found, dict) else None
    if not isinstance(cpu, dict):
        return found
    gpu = found.get("gpu")
    parts = [str(cpu.get("name")), f"{cpu.get('cores')} threads"]
    if isinstance(gpu, dict):
        parts.append(str(gpu.get("name")))
    unknown = dict.fromkeys(("architecture", "vendor", "family", "model", "instruction_sets"))
    upgraded = {
        **found,
        "host": ", ".join(parts),
        "cpu": {**unknown, "model_name": cpu.get("name"), "threads": cpu.get("cores")},
    }
    if isinstance(found.get("others"), list):
        upgraded["others"] = [_environment(other) for other in found["others"]]
    return upgraded


def _entry(entry: Any, measured_on: str | None) -> Any:
    if not isinstance(entry, dict):
        return entry
    if entry.get("map") is not None:
        entry = {**entry, "host": measured_on}
    latency = entry.get("latency")
    if not isinstance(latency, dict) or not isinstance(states := latency.get("gpu_state"), list):
        return entry
    return {**entry, "latency": {**latency, "gpu_state": [_gpu_state(state) for state in states]}}


def _gpu_state(state: Any) -> Any:
    if not isinstance(state, dict):
        return state

    def number(field: str) -> str | None:
        """The number before the unit; "[N/A]" is None."""
        value = str(state.get(field, "")).split(" ")[0]
        return value if value[:1].isdigit() else None

    clock, most, celsius = (number(field) for field in ("clocks.sm", "clocks.max.sm", "temperature.gpu"))
    watts, reasons = number("power.draw"), number("clocks_throttle_reasons.active")
    return host.GpuState(
        uuid=None,
        sm_clock_mhz=int(clock) if clock else None,
        max_sm_clock_mhz=int(most) if most else None,
        temperature_c=int(celsius) if celsius else None,
        power_w=float(watts) if watts else None,
        throttle_reasons=host.throttle_reasons(int(reasons, 16)) if reasons else None,
    )
