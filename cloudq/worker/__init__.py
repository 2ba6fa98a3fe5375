"""The worker: receives, runs, settles. Read in this order: engine, leases, settling, runners, pump, process, supervisor."""
