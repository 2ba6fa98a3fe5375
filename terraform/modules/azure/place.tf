# Where the queues are, on Azure: a namespace of their own, in a resource group that exists.

variable "resource_group_name" {
  description = "The resource group."
  type        = string
  nullable    = false
}

variable "location" {
  description = "The region, e.g. westeurope."
  type        = string
  nullable    = false
}

variable "namespace" {
  description = "Name of the Service Bus namespace: 6 to 50 letters, digits and hyphens, the only one of its name in the world."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-zA-Z][a-zA-Z0-9-]{4,48}[a-zA-Z0-9]$", var.namespace))
    error_message = "namespace = \"${var.namespace}\": it takes 6 to 50 letters, digits and hyphens, with a letter first and no hyphen last. Choose such a name."
  }
}

variable "sku" {
  description = "Standard, or Premium for a key of your own, a private endpoint and messages over 256 KB. Basic has neither sessions nor duplicate detection."
  type        = string
  default     = "Standard"
  nullable    = false

  validation {
    condition     = contains(["Standard", "Premium"], var.sku)
    error_message = "sku = \"${var.sku}\": choose Standard or Premium. Basic has neither sessions nor duplicate detection, which cloudq needs."
  }
}

variable "capacity" {
  description = "Messaging units of a Premium namespace: 1, 2, 4, 8 or 16. 0 on Standard."
  type        = number
  default     = 0
  nullable    = false
}

variable "public_network_access" {
  description = "Let the namespace be reached from the internet. Without it, a private endpoint is needed (Premium)."
  type        = bool
  default     = true
  nullable    = false
}

variable "encryption_identity" {
  description = "Resource id of the user-assigned identity that may use `encryption_key`."
  type        = string
  default     = null
}

locals {
  refused_here = concat(
    [for key in var.encryption_key == null ? [] : ["key"] :
      "encryption_key: a key of your own needs sku = \"Premium\" (it is \"${var.sku}\"), and the identity that may use it in encryption_identity. Set both, or leave the key out."
      if var.sku != "Premium" || var.encryption_identity == null
    ],
    [for sku in [var.sku] :
      "capacity = ${var.capacity}: a ${sku} namespace has ${sku == "Premium" ? "1, 2, 4, 8 or 16 messaging units" : "none: 0"}. Choose that."
      if !contains(sku == "Premium" ? [1, 2, 4, 8, 16] : [0], var.capacity)
    ],
    [for sku in [var.sku] :
      "public_network_access = false: a private endpoint needs sku = \"Premium\" (it is \"${sku}\"). Choose Premium, or leave it true."
      if !var.public_network_access && sku != "Premium"
    ],
  )
}
