"""What is done for a deployment as a whole, beside serving: bills, alerts, moving over from others."""
