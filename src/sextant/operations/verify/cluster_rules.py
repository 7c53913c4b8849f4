"""The rules for one cluster's objects, by id: what each holds, and what to do where it does not.

What schemas cannot say, because it takes all objects together. Pure. Run by `judged` of `findings.py`.
"""

from __future__ import annotations

from sextant.operations.verify import capacity, exposure, hardening, identities, references
from sextant.operations.verify.findings import Rule

AGAIN = "change the document and render again"

CLUSTER_RULES: tuple[Rule, ...] = (
    Rule("SX-V001", "No object is there twice.", "remove one of the two", references.twins),
    Rule(
        "SX-V002",
        "Every account, ConfigMap, claim, secret and priority class that is named is made here or a "
        "prerequisite.",
        "make it, name the right one, or list it as a prerequisite",
        references.names_that_lead_nowhere,
    ),
    Rule(
        "SX-V003",
        "Every mount has its volume and every volume is mounted.",
        "add the missing half or remove the other",
        references.volumes_that_do_not_meet,
    ),
    Rule(
        "SX-V004",
        "Every selector, a network policy's too, chooses something.",
        "make selector and labels the same",
        references.selectors_that_miss,
    ),
    Rule(
        "SX-V005",
        "Every port that is named is open, and a network policy lets its callers in.",
        "name a port that a container opens, and let it through",
        references.ports_that_do_not_meet,
    ),
    Rule(
        "SX-V006",
        "Every container has requests and limits.",
        "say cpu, memory and ephemeral-storage in both",
        hardening.pods_without_bounds,
    ),
    Rule(
        "SX-V007",
        "No image moves: none without a tag or by `latest`.",
        "lock the image's digest",
        hardening.images_that_move,
    ),
    Rule(
        "SX-V008",
        "Pods are as Pod Security's `restricted` wants them, with read-only roots, but for what their "
        "namespace declares with its reason.",
        f"take the privilege away; {AGAIN}",
        hardening.pods_with_privileges,
    ),
    Rule(
        "SX-V009",
        "No secret's value stands in an object.",
        "make the secret by hand, and change the one that was written down",
        hardening.secrets_in_the_open,
    ),
    Rule(
        "SX-V010",
        "Every namespace has quota, defaults, restricted pods or a declared reason, and denies traffic by "
        "default.",
        AGAIN,
        hardening.namespaces_without_walls,
    ),
    Rule(
        "SX-V011",
        "An autoscaler scales something that is there, within bounds, and nobody else sets its replicas.",
        "take `replicas` out, and name what is there",
        capacity.scaled_by_two,
    ),
    Rule(
        "SX-V012",
        "What the pods of the plan ask for fits their namespace's quota.",
        "raise the quota, or plan less",
        capacity.quotas_that_do_not_hold,
    ),
    Rule(
        "SX-V013",
        "Engines take as many accelerators as the plan says.",
        AGAIN,
        capacity.accelerators_that_differ,
    ),
    Rule(
        "SX-V014",
        "Startup probes outlast the predicted time to load, and rollouts the probes.",
        "raise failureThreshold or progressDeadlineSeconds",
        capacity.probes_that_give_up_early,
    ),
    Rule(
        "SX-V015",
        "A disruption budget leaves room to empty a node.",
        "want fewer pods than are sure to be there",
        capacity.budgets_that_block,
    ),
    Rule(
        "SX-V016",
        "No workload has two autoscalers.",
        "apply one of the two",
        capacity.scaled_twice,
    ),
    Rule(
        "SX-V017",
        "Pods are spread over labels that nodes carry.",
        "name one of the well-known topology labels",
        capacity.topologies_unknown,
    ),
    Rule(
        "SX-V018",
        "No volume is a folder of the node, but those that the prerequisites name.",
        "use a claim, or list the folder as a prerequisite",
        hardening.folders_of_hosts,
    ),
    Rule(
        "SX-V019",
        "Every SPIFFE id that is asked for or expected is registered for the pods that it means.",
        f"register it in a ClusterSPIFFEID, or correct who is expected; {AGAIN}",
        identities.ids_that_do_not_meet,
    ),
    Rule(
        "SX-V020",
        "An engine behind a proxy that checks SPIFFE ids answers it alone, and the proxy the gateway alone.",
        AGAIN,
        identities.proxies_passed_by,
    ),
    Rule(
        "SX-V021",
        "Nothing of the admin API is reached from outside but the portal's pages.",
        "route /portal and the provider's way back alone, and keep the service inside",
        exposure.admin_api_outside,
    ),
)
