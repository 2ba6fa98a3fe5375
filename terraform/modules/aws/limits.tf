# Written by `make terraform-docs` from the facts of the adapter, by which Python refuses too.

locals {
  limits = {
    provider               = "sqs"
    name                   = "Amazon SQS"
    message_bytes          = 1048576
    lease_seconds          = [2, 43200]
    max_deliveries         = [1, 1000]
    unrun                  = 5
    retention_seconds      = [60, 1209600]
    dead_retention_seconds = [60, 1209600]
    dead_ages              = true
    dedup                  = "ordered"
    dedup_seconds          = [300, 300]
    ages                   = null

    functions = {
      leases                 = 6
      timeout_seconds        = [1, 900]
      batch                  = [1, 10000]
      ordered_batch          = [1, 10]
      window_seconds         = [0, 300]
      ordered_window_seconds = [0, 0]
      concurrency            = [2, 1000]
      ordered                = true
    }
  }
}
