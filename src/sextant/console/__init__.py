"""The tenants' portal: pages for the people who use a deployment, over control's HTTP interface alone."""

from sextant.console.site import ConsoleSettings, Portal

__all__ = ["ConsoleSettings", "Portal"]
