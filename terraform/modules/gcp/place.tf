# Where the queues are, on Google Cloud.

variable "project" {
  description = "The id of the project."
  type        = string
  nullable    = false
}

variable "project_number" {
  description = "The number of the project. Pub/Sub acts as service-<number>@gcp-sa-pubsub.iam.gserviceaccount.com. An input, so that no data source has to be read."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[0-9]+$", var.project_number))
    error_message = "project_number = \"${var.project_number}\" is not a number. `gcloud projects describe <id> --format='value(projectNumber)'` prints it."
  }
}

variable "exactly_once" {
  description = "Turn on exactly-once delivery for subscriptions that workers pull. Set exactly_once=true in the application's URL too."
  type        = bool
  default     = false
  nullable    = false
}

locals {
  # Pub/Sub itself moves what was delivered too often, and pushes.
  service_agent = "serviceAccount:service-${var.project_number}@gcp-sa-pubsub.iam.gserviceaccount.com"

  refused_here = concat(
    [for name, function in var.functions :
      "functions.${name}: the subscription is pushed, and exactly_once is for what is pulled. Set exactly_once = false."
      if var.exactly_once
    ],
  )
}
