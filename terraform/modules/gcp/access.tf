# Grants on these topics and subscriptions, none on the project. By id, which is unknown while one is made anew: its grants are gone
# with the old one, and must be given again.

locals {
  topics = merge(
    { for key, each in google_pubsub_topic.main : "main/${key}" => each.id },
    { for key, each in google_pubsub_topic.delay : "delay/${key}" => each.id },
    { for key, each in google_pubsub_topic.dead : "dead/${key}" => each.id },
  )
  subscriptions = merge(
    { for key, each in google_pubsub_subscription.main : "main/${key}" => each.id },
    { for key, each in google_pubsub_subscription.delay : "delay/${key}" => each.id },
    { for key, each in google_pubsub_subscription.dead : "dead/${key}" => each.id },
  )

  publishers = merge(
    { for pair in setproduct(keys(var.principals.producers), keys(local.topics)) : "producer ${pair[0]} ${pair[1]}" => {
      part = pair[1], member = var.principals.producers[pair[0]]
    } if !startswith(pair[1], "dead/") },
    # A worker sends copies for later, forwards what is due, and gives up what failed.
    { for pair in setproduct(keys(var.principals.workers), keys(local.topics)) : "worker ${pair[0]} ${pair[1]}" => {
      part = pair[1], member = var.principals.workers[pair[0]]
    } },
    { for pair in setproduct(keys(var.principals.operators), keys(local.topics)) : "operator ${pair[0]} ${pair[1]}" => {
      part = pair[1], member = var.principals.operators[pair[0]]
    } if startswith(pair[1], "main/") },
    # A function gives up what failed for good. What is tried again, it does not send anew: it answers so.
    { for name, function in var.functions : "function ${name}" => {
      part = "dead/${name}", member = "serviceAccount:${function.identity}"
    } if contains(keys(local.queues), name) },
  )
  subscribers = merge(
    { for pair in setproduct(keys(var.principals.workers), keys(local.topics)) : "worker ${pair[0]} ${pair[1]}" => {
      part = pair[1], member = var.principals.workers[pair[0]]
    } if !startswith(pair[1], "dead/") },
    { for pair in setproduct(keys(var.principals.operators), keys(local.topics)) : "operator ${pair[0]} ${pair[1]}" => {
      part = pair[1], member = var.principals.operators[pair[0]]
    } if startswith(pair[1], "dead/") },
  )
  # doctor reads settings.
  viewers = { for pair in setproduct(keys(var.principals.operators), keys(local.topics)) : "operator ${pair[0]} ${pair[1]}" => {
    part = pair[1], member = var.principals.operators[pair[0]]
  } }
  # A worker asks once how long the deadline is; without the answer it extends after each pull.
  subscription_viewers = merge(local.viewers, {
    for pair in setproduct(keys(var.principals.workers), keys(local.topics)) : "worker ${pair[0]} ${pair[1]}" => {
      part = pair[1], member = var.principals.workers[pair[0]]
    } if !startswith(pair[1], "dead/")
  })
}

resource "google_pubsub_topic_iam_member" "publisher" {
  for_each = local.publishers

  project = var.project
  topic   = local.topics[each.value.part]
  role    = "roles/pubsub.publisher"
  member  = each.value.member
}

resource "google_pubsub_subscription_iam_member" "subscriber" {
  for_each = local.subscribers

  project      = var.project
  subscription = local.subscriptions[each.value.part]
  role         = "roles/pubsub.subscriber"
  member       = each.value.member
}

resource "google_pubsub_topic_iam_member" "viewer" {
  for_each = local.viewers

  project = var.project
  topic   = local.topics[each.value.part]
  role    = "roles/pubsub.viewer"
  member  = each.value.member
}

resource "google_pubsub_subscription_iam_member" "viewer" {
  for_each = local.subscription_viewers

  project      = var.project
  subscription = local.subscriptions[each.value.part]
  role         = "roles/pubsub.viewer"
  member       = each.value.member
}
