# The push itself is part of the subscription: queues.tf. Pub/Sub signs its requests as the function's identity, for which it must
# be allowed to make tokens; that the identity may call the service (roles/run.invoker) belongs to the service.

output "push" {
  description = "For each queue with a function: the audience and the service account that the function must ask for, and the name of the delay part, which a function cannot serve: `cloudq pump` does."
  value = { for name, function in var.functions : name => {
    audience        = coalesce(function.audience, function.target)
    service_account = function.identity
    delay           = local.queues[name].names.delay
  } if contains(keys(local.queues), name) }
}
