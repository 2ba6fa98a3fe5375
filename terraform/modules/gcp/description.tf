# The queues, as `cloudq infra export` describes them. This file is the same in all three modules.

variable "cloudq" {
  description = "The queues, as `cloudq infra export` writes them to cloudq.auto.tfvars.json. Pass it on as it is."
  # A typed object would drop an unknown key without a word; here it is refused below.
  type     = any
  nullable = false

  validation {
    condition     = toset(keys(var.cloudq)) == local.keys.document
    error_message = "The description has keys too many: [${join(", ", setsubtract(keys(var.cloudq), local.keys.document))}], and too few: [${join(", ", setsubtract(local.keys.document, keys(var.cloudq)))}]. Write it anew: cloudq infra export."
  }

  validation {
    condition     = var.cloudq.schema_version == 1
    error_message = "schema_version is ${var.cloudq.schema_version}, and these modules read 1. Take the modules of the cloudq version that wrote it."
  }

  validation {
    condition     = var.cloudq.provider == local.limits.provider
    error_message = "provider is \"${var.cloudq.provider}\", and this module makes queues for \"${local.limits.provider}\". Export for it: cloudq infra export --target ${local.limits.provider}."
  }

  validation {
    condition = alltrue([for queue in values(var.cloudq.queues) : toset(keys(queue)) == local.keys.queue])
    error_message = join(" ", [for name, queue in var.cloudq.queues :
      "queues.${name} has keys too many: [${join(", ", setsubtract(keys(queue), local.keys.queue))}], and too few: [${join(", ", setsubtract(local.keys.queue, keys(queue)))}]. Write it anew: cloudq infra export."
      if toset(keys(queue)) != local.keys.queue
    ])
  }

  validation {
    condition = alltrue(flatten([for queue in values(var.cloudq.queues) : [for key in local.keys.numbers : can(queue[key] + 0)]]))
    error_message = join(" ", flatten([for name, queue in var.cloudq.queues : [for key in local.keys.numbers :
      "queues.${name}.${key} = ${try(tostring(queue[key]), "nothing")} is not a number. Change cloudq.toml, and write the description anew: cloudq infra export."
      if !can(queue[key] + 0)
    ]]))
  }

  validation {
    # Not against malice: it tells that somebody meant to change cloudq.toml and changed what is made of it.
    condition     = sha256(jsonencode({ for key, value in var.cloudq : key => value if key != "config_hash" })) == var.cloudq.config_hash
    error_message = "The description was changed after `cloudq infra export` had written it; `cloudq infra export --check` tells in what. Change cloudq.toml, and write it anew: cloudq infra export."
  }
}

locals {
  keys = {
    numbers = [
      "dead_retention_seconds", "dedup_seconds", "delay_retention_seconds", "lease_seconds", "max_attempts", "max_deliveries",
      "retention_seconds",
    ]
    document = toset(["config_hash", "namespace", "prefix", "provider", "queues", "schema_version"])
    queue = toset([
      "alarm", "dead_retention_seconds", "dedup_seconds", "delay_retention_seconds", "hash", "lease_seconds", "max_attempts",
      "max_deliveries", "names", "ordered", "retention_seconds", "scale", "serverless",
    ])
  }

  queues     = var.cloudq.queues
  serverless = { for name, queue in local.queues : name => queue.serverless if queue.serverless != null }
  mend       = "Change cloudq.toml, and write the description anew: cloudq infra export."
  functions  = local.limits.functions

  # Every physical queue that tasks are sent to, by "<queue>/<priority>".
  mains = merge([
    for name, queue in local.queues : {
      for priority, physical in queue.names.main : "${name}/${priority}" => { queue = name, name = physical }
    }
  ]...)

  # What the provider cannot keep, in words. The same is refused by `cloudq check`, with the same figures: limits.tf.
  refused = concat(
    [for name, queue in local.queues :
      "queues.${name}.lease = ${queue.lease_seconds}s: ${local.limits.name} leases from ${local.limits.lease_seconds[0]}s to ${local.limits.lease_seconds[1]}s. ${local.mend}"
      if queue.lease_seconds < local.limits.lease_seconds[0] || queue.lease_seconds > local.limits.lease_seconds[1]
    ],
    [for name, queue in local.queues :
      "queues.${name}.max_attempts = ${queue.max_attempts}: ${local.limits.name} moves a message to its dead part after ${queue.max_deliveries} deliveries, and ${local.limits.unrun} that were never run must fit too. Choose ${max(1, local.limits.max_deliveries[1] - local.limits.unrun)} or fewer. ${local.mend}"
      if queue.max_attempts < 1 || queue.max_deliveries < queue.max_attempts + local.limits.unrun || queue.max_deliveries > local.limits.max_deliveries[1]
    ],
    [for name, queue in local.queues :
      "queues.${name}.retention = ${queue.retention_seconds}s: ${local.limits.name} keeps a message for ${local.limits.retention_seconds[0]}s to ${local.limits.retention_seconds[1]}s. ${local.mend}"
      if queue.retention_seconds < local.limits.retention_seconds[0] || queue.retention_seconds > local.limits.retention_seconds[1]
    ],
    [for name, queue in local.queues :
      "queues.${name}.dead_retention = ${queue.dead_retention_seconds}s: ${local.limits.name} keeps what is dead until somebody removes it. Leave the setting out. ${local.mend}"
      if local.limits.dead_retention_seconds == null && queue.dead_retention_seconds != 0
    ],
    [for name, queue in local.queues :
      "queues.${name}.dead_retention = ${queue.dead_retention_seconds}s: ${local.limits.name} keeps a message for ${local.limits.dead_retention_seconds[0]}s to ${local.limits.dead_retention_seconds[1]}s, and what is dead must not be gone before what waits (${queue.retention_seconds}s). ${local.mend}"
      if local.limits.dead_retention_seconds != null && try(queue.dead_retention_seconds < queue.retention_seconds || queue.dead_retention_seconds > local.limits.dead_retention_seconds[1], false)
    ],
    [for name, queue in local.queues :
      "queues.${name}.retention = ${queue.retention_seconds}s, dead_retention = ${queue.dead_retention_seconds}s: what ${local.limits.name} moves to the dead part by itself keeps its age, and would be gone at once. Choose a retention below the other. ${local.mend}"
      if local.limits.dead_ages && queue.dead_retention_seconds == queue.retention_seconds
    ],
    [for name, queue in local.queues :
      "queues.${name}.dedup = ${queue.dedup_seconds}s: ${local.limits.name} drops no duplicates${local.limits.dedup == "ordered" ? " where ordered is not set" : ""}. Remove it. ${local.mend}"
      if queue.dedup_seconds > 0 && (local.limits.dedup == "none" || local.limits.dedup == "ordered" && !queue.ordered)
    ],
    [for name, queue in local.queues :
      "queues.${name}.dedup = ${queue.dedup_seconds}s: the window of ${local.limits.name} is ${local.limits.dedup_seconds[0]}s to ${local.limits.dedup_seconds[1]}s. Choose that, or 0. ${local.mend}"
      if queue.dedup_seconds > 0 && local.limits.dedup != "none" && (queue.dedup_seconds < local.limits.dedup_seconds[0] || queue.dedup_seconds > local.limits.dedup_seconds[1])
    ],
    [for name, queue in local.queues :
      "queues.${name}.priorities = ${join(", ", keys(queue.names.main))}: 'normal' must be one of them, and the others 'high' or 'low'. ${local.mend}"
      if !contains(keys(queue.names.main), "normal") || length(setsubtract(keys(queue.names.main), ["high", "normal", "low"])) > 0
    ],
    [for physical, owners in local.owners :
      "The queues ${join(" and ", distinct(owners))} would both use the physical queue ${physical}. Rename one of them in cloudq.toml, and write the description anew: cloudq infra export."
      if length(owners) > 1
    ],
    [for name, queue in local.queues :
      "queues.${name}.alarm.oldest = ${queue.alarm.oldest_seconds}s: ${local.limits.name} watches over ${try(join(", ", local.limits.ages), "any time")} s. Choose one of them, or 0. ${local.mend}"
      if queue.alarm.oldest_seconds < 0 || queue.alarm.oldest_seconds > 0 && !try(contains(local.limits.ages, queue.alarm.oldest_seconds), true)
    ],
    [for name, queue in local.queues :
      "queues.${name}.alarm.oldest = ${queue.alarm.oldest_seconds}s: nothing gets so old in a queue that keeps it for ${queue.retention_seconds}s. Choose a shorter time, or 0. ${local.mend}"
      if queue.alarm.oldest_seconds > queue.retention_seconds
    ],
    [for name, queue in local.queues :
      "queues.${name}.alarm.dead = ${queue.alarm.dead}: 1 to be told of the first dead task, 0 for never. ${local.mend}"
      if queue.alarm.dead < 0
    ],
    [for name, queue in local.queues :
      "queues.${name}.scale.backlog = ${queue.scale.backlog}, minimum = ${queue.scale.minimum}, maximum = ${queue.scale.maximum}: choose a backlog of 1 or more, and 0 <= minimum <= maximum. ${local.mend}"
      if queue.scale.backlog < 1 || queue.scale.minimum < 0 || queue.scale.maximum < max(1, queue.scale.minimum)
    ],
    [for name, function in local.serverless :
      "queues.${name}.serverless.timeout = ${function.timeout_seconds}s: a function of ${local.limits.name} runs for ${local.functions.timeout_seconds[0]}s to ${local.functions.timeout_seconds[1]}s. Choose a time between, or let workers run these tasks. ${local.mend}"
      if function.timeout_seconds < local.functions.timeout_seconds[0] || function.timeout_seconds > local.functions.timeout_seconds[1]
    ],
    [for name, function in local.serverless :
      "queues.${name}.lease = ${local.queues[name].lease_seconds}s: with a function, ${local.limits.name} wants at least ${local.functions.leases} x its timeout of ${function.timeout_seconds}s. Set lease to ${local.functions.leases * function.timeout_seconds}s or more. ${local.mend}"
      if local.queues[name].lease_seconds < local.functions.leases * function.timeout_seconds
    ],
    [for name, function in local.serverless :
      "queues.${name}.serverless.batch = ${function.batch}: ${local.limits.name} hands over ${join(" to ", local.queues[name].ordered ? local.functions.ordered_batch : local.functions.batch)} at once here. Choose that, or leave it out. ${local.mend}"
      if function.batch < local.functions.batch[0] || function.batch > (local.queues[name].ordered ? local.functions.ordered_batch[1] : local.functions.batch[1])
    ],
    [for name, function in local.serverless :
      "queues.${name}.serverless.window = ${function.window_seconds}s: ${local.limits.name} gathers for ${join(" to ", local.queues[name].ordered ? local.functions.ordered_window_seconds : local.functions.window_seconds)} s here. Choose that, or leave it out. ${local.mend}"
      if function.window_seconds < 0 || function.window_seconds > (local.queues[name].ordered ? local.functions.ordered_window_seconds[1] : local.functions.window_seconds[1])
    ],
    [for name, function in local.serverless :
      "queues.${name}.serverless.batch = ${function.batch}, window = ${function.window_seconds}s: ${local.limits.name} gathers more than 10 messages over a second at the least. Set window to 1s or more. ${local.mend}"
      if function.batch > 10 && function.window_seconds < 1
    ],
    [for name, function in local.serverless :
      "queues.${name}.serverless.concurrency = ${function.concurrency}: ${local.limits.name} bounds the calls at once to ${try(join(" to ", local.functions.concurrency), "nothing")}. Choose a number between, or leave it out. ${local.mend}"
      if function.concurrency > 0 && !try(function.concurrency >= local.functions.concurrency[0] && function.concurrency <= local.functions.concurrency[1], false)
    ],
    [for name, function in local.serverless :
      "queues.${name}.serverless with ordered = true: a function of ${local.limits.name} can neither delay nor dead-letter a message of an ordered queue. Let workers run it: remove [queues.${name}.serverless]. ${local.mend}"
      if local.queues[name].ordered && !local.functions.ordered
    ],
    [for name in setsubtract(keys(local.serverless), keys(var.functions)) :
      "queues.${name}.serverless is set in cloudq.toml, and `functions` names no function for it. Add functions = { ${name} = { target = ..., identity = ... } }."
    ],
    [for name in setsubtract(keys(var.functions), keys(local.serverless)) :
      "functions names ${name}, and cloudq.toml has no [queues.${name}.serverless]: workers run its tasks. Remove one or add the other."
    ],
    local.refused_here,
  )

  owners = merge([for physical in flatten([for queue in local.queues : compact(concat(values(queue.names.main), [queue.names.delay, queue.names.dead]))]) : {
    (physical) = flatten([for name, queue in local.queues : [
      for each in compact(concat(values(queue.names.main), [queue.names.delay, queue.names.dead])) : name if each == physical
    ]])
  }]...)
}

# Apart from the resources, whose own complaints would hide these. Its input keeps in the state what was applied.
resource "terraform_data" "description" {
  input = var.cloudq.config_hash

  lifecycle {
    precondition {
      condition     = length(local.refused) == 0
      error_message = join("\n", local.refused)
    }
  }
}
