"""What the mode `container` adds to a cluster: images, pipelines, GitOps, releases, registry, watching."""
