"""Evaluates the Tiltfile with a Starlark interpreter and judges what it asks Tilt for.

Tilt itself needs a container engine and is not run. Its functions are stood in for by ones with the same parameters (Tilt's API reference, the subset that is used
here), so an unknown function or argument fails; what they are given is compared with the project: paths exist, make knows the targets, image and workloads are the
chart's.
"""

import json
import pathlib
import re
import subprocess
import sys

import starlark

ROOT = pathlib.Path(__file__).resolve().parents[2]
TILTFILE = ROOT / "deploy/tilt/Tiltfile"

STAND_INS = """
TRIGGER_MODE_AUTO = 'auto'
TRIGGER_MODE_MANUAL = 'manual'

def allow_k8s_contexts(contexts):
    record('allow_k8s_contexts', {'contexts': contexts})

def blob(contents):
    return contents

def custom_build(ref, command, deps, tag='', disable_push=False, skips_local_docker=False, live_update=[], match_in_env_vars=False, ignore=[], entrypoint=[],
                 outputs_image_ref_to='', image_deps=[]):
    record('custom_build', {'ref': ref, 'command': command, 'deps': deps, 'disable_push': disable_push, 'skips_local_docker': skips_local_docker})

def helm(pathToChartDir, name='', namespace='', values=[], set=[], kube_version=''):
    record('helm', {'chart': pathToChartDir, 'name': name, 'namespace': namespace, 'values': values})
    return 'rendered ' + pathToChartDir

def k8s_yaml(yaml, allow_duplicates=False):
    record('k8s_yaml', {'yaml': yaml})

def k8s_resource(workload='', new_name='', port_forwards=[], extra_pod_selectors=[], trigger_mode=TRIGGER_MODE_AUTO, resource_deps=[], objects=[], auto_init=True,
                 pod_readiness='', links=[], labels=[], discovery_strategy=''):
    record('k8s_resource', {'workload': workload})

def local_resource(name, cmd='', deps=[], trigger_mode=TRIGGER_MODE_AUTO, resource_deps=[], ignore=[], auto_init=True, serve_cmd='', allow_parallel=False, links=[],
                   labels=[]):
    record('local_resource', {'name': name, 'cmd': cmd, 'deps': deps})
"""


def evaluate():
    calls = []
    module = starlark.Module()
    module.add_callable("record", lambda name, arguments: calls.append((name, arguments)))
    dialect = starlark.Dialect.standard()
    dialect.enable_top_level_stmt = True
    for name, text in (("stand-ins", STAND_INS), (str(TILTFILE), TILTFILE.read_text())):
        starlark.eval(module, starlark.parse(name, text, dialect), starlark.Globals.standard())
    return calls


def main():
    calls = evaluate()
    asked = lambda name: [arguments for called, arguments in calls if called == name]
    path = lambda text: (TILTFILE.parent / text).resolve()

    [build] = asked("custom_build")
    [helm] = asked("helm")
    for text in build["deps"] + [helm["chart"]] + helm["values"] + [d for r in asked("local_resource") for d in r["deps"]]:
        assert path(text).exists(), f"the Tiltfile names {text}, which is not there"
    assert build["disable_push"] and build["skips_local_docker"], "Tilt would look for the image in a docker daemon"

    targets = set(re.findall(r"^([a-z-]+(?: [a-z-]+)*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    targets = {word for line in targets for word in line.split()}
    commands = [build["command"]] + [r["cmd"] for r in asked("local_resource")]
    for command in commands:
        subprocess.run(["sh", "-n", "-c", command], check=True)
        [arguments] = re.findall(r"\bmake ([^&]*)", command)
        words = [w for w in arguments.split() if not w.startswith("-") and "=" not in w]
        assert words and set(words) <= targets, f"make knows no target of {words}"
        variables = {w.split("=")[0] for w in arguments.split() if "=" in w and not w.startswith("-")}
        makefile = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{v} \?=", makefile, re.MULTILINE) for v in variables), f"the Makefile has no variable of {variables}"
        assert path(re.search(r"\bcd (\S+)", command)[1]) == ROOT, "commands run at the root"
    assert "$EXPECTED_REF" in build["command"], "Tilt would not find the image it asked for"

    cluster = re.search(r"^name: (\S+)", (ROOT / "deploy/kind/cluster.yaml").read_text(), re.MULTILINE)[1]
    assert asked("allow_k8s_contexts") == [{"contexts": "kind-" + cluster}] and f"--name {cluster} " in build["command"]

    chart = path(helm["chart"])
    values = (chart / "values.yaml").read_text()
    assert f"repository: {build['ref']}\n" in values, f"the chart's image is not {build['ref']}"
    rendered = "".join(p.read_text() for p in (chart / "templates").glob("*.yaml"))
    for resource in asked("k8s_resource"):
        assert f"name: {resource['workload']}\n" in rendered, f"the chart has no workload {resource['workload']}"
    yamls = [y["yaml"] for y in asked("k8s_yaml")]
    assert len(yamls) == 2 and f"name: {helm['namespace']}\n" in yamls[0] and yamls[1].startswith("rendered "), "namespace first, then the chart"
    print(f"tiltfile: {len(calls)} calls, all as the project has it: {json.dumps([c for c, _ in calls])}")


if __name__ == "__main__":
    sys.exit(main())
