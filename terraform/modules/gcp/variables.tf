# What else the modules take. This file is the same in all three; what only one cloud asks for is in its place.tf.

variable "principals" {
  description = "Who gets which rights, by a name of your own. A role's name on AWS, a member (serviceAccount:...) on Google Cloud, an object id on Azure: of a service principal or managed identity, for operators of a person or group too."
  type = object({
    producers = optional(map(string), {})
    workers   = optional(map(string), {})
    operators = optional(map(string), {})
  })
  default  = {}
  nullable = false
}

variable "functions" {
  description = "The function of each queue that has [queues.<name>.serverless]. `target` is the function's ARN on AWS, the https URL to push to on Google Cloud, the resource id of the function app on Azure, where nothing needs it. `identity` is what it runs as (AWS: the role's name; Azure: the object id of its identity), on Google Cloud the service account whose token is sent. `audience` is for Google Cloud alone, by default the target."
  type = map(object({
    target   = string
    identity = string
    audience = optional(string)
  }))
  default  = {}
  nullable = false
}

variable "encryption_key" {
  description = "A key of your own: { id = ... }, its KMS key ARN on AWS, Cloud KMS key name on Google Cloud, Key Vault key id on Azure (Premium). null: the provider's own keys. An object, so that a key that is made in the same apply is known to be there."
  type        = object({ id = string })
  default     = null
}

variable "notify" {
  description = "Who is told of alarms, by a name of your own: SNS topic ARNs on AWS, notification channels on Google Cloud, action group ids on Azure. Alarms are made without any too."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "tags" {
  description = "Tags (labels on Google Cloud) of everything that carries some, beside cloudq-config and cloudq-queue."
  type        = map(string)
  default     = {}
  nullable    = false
}
