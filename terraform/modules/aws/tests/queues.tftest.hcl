# Run by `terraform test`: the provider is a mock, so only the module's own reasoning is shown.

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_region" {
    defaults = { id = "eu-west-1" }
  }
}

variables {
  cloudq    = jsondecode(file("tests/cloudq.json")).cloudq
  functions = { thumbs = { target = "arn:aws:lambda:eu-west-1:123456789012:function:thumbs", identity = "thumbs" } }
}

run "every_part_is_made" {
  command = plan

  assert {
    condition     = toset(keys(aws_sqs_queue.main)) == toset(["audit/normal", "mail/high", "mail/normal", "thumbs/normal"])
    error_message = "One queue for each priority."
  }
  assert {
    condition     = aws_sqs_queue.dead["audit"].fifo_queue && aws_sqs_queue.dead["audit"].name == "shop-audit-dlq.fifo"
    error_message = "The dead part of a FIFO queue is one too."
  }
  assert {
    condition     = alltrue([for queue in aws_sqs_queue.delay : queue.fifo_queue != true])
    error_message = "A delay part is in no order."
  }
}

run "the_net_is_behind_the_retries" {
  command = plan

  assert {
    condition     = jsondecode(aws_sqs_queue_redrive_policy.main["mail/high"].redrive_policy) == { deadLetterTargetArn = "arn:aws:sqs:eu-west-1:123456789012:shop-mail-dlq", maxReceiveCount = 28 }
    error_message = "max(3 x 8, 8 + 20)."
  }
  assert {
    condition     = length(jsondecode(aws_sqs_queue_redrive_allow_policy.dead["mail"].redrive_allow_policy).sourceQueueArns) == 2
    error_message = "The dead part lets in both priorities."
  }
  assert {
    condition     = alltrue([for queue in aws_sqs_queue.dead : queue.message_retention_seconds == 1209600])
    error_message = "What is dead is kept for the longest time there is."
  }
}

run "without_a_key_of_your_own_sqs_encrypts" {
  command = plan

  assert {
    condition     = alltrue([for queue in merge(aws_sqs_queue.main, aws_sqs_queue.delay, aws_sqs_queue.dead) : queue.sqs_managed_sse_enabled && queue.kms_master_key_id == null])
    error_message = "Encrypted with keys of the service."
  }
}

run "a_key_of_your_own_excludes_the_other" {
  command = plan

  variables {
    encryption_key = { id = "arn:aws:kms:eu-west-1:123456789012:key/k" }
  }

  assert {
    condition     = alltrue([for queue in aws_sqs_queue.main : queue.kms_master_key_id == var.encryption_key.id])
    error_message = "Encrypted with that key."
  }
  assert {
    condition     = strcontains(aws_iam_policy.role["producer"].policy, "kms:GenerateDataKey")
    error_message = "A producer must be able to use the key."
  }
}

run "failures_are_always_told_one_by_one" {
  command = plan

  assert {
    condition     = alltrue([for mapping in aws_lambda_event_source_mapping.function : mapping.function_response_types == toset(["ReportBatchItemFailures"])])
    error_message = "Without it what failed is deleted."
  }
  assert {
    condition     = toset(keys(aws_lambda_event_source_mapping.function)) == toset(["main/thumbs/normal", "delay/thumbs"])
    error_message = "The delay part is the function's too."
  }
}

run "everything_refuses_plain_http" {
  command = plan

  assert {
    condition     = length(aws_sqs_queue_policy.tls) == 10 && alltrue([for policy in aws_sqs_queue_policy.tls : jsondecode(policy.policy).Statement[0].Condition.Bool["aws:SecureTransport"] == "false"])
    error_message = "Every queue has the policy."
  }
}

run "alarms_are_on_by_default" {
  command = plan

  assert {
    condition     = length(aws_cloudwatch_metric_alarm.oldest) == 4 && length(aws_cloudwatch_metric_alarm.dead) == 3
    error_message = "One for each queue, one for each dead part."
  }
}

run "rights_are_attached_to_who_is_named" {
  command = plan

  variables {
    principals = { producers = { web = "web-role" }, operators = { support = "support-role" } }
  }

  assert {
    condition     = toset(keys(aws_iam_role_policy_attachment.role)) == toset(["producer/web", "operator/support", "function/thumbs"])
    error_message = "The function gets a policy of its own."
  }
}

run "a_function_has_the_rights_that_lambda_asks_for_on_its_own_queue_alone" {
  command = plan

  assert {
    condition     = contains(jsondecode(aws_iam_policy.role["function-thumbs"].policy).Statement[0].Action, "sqs:GetQueueAttributes") && !strcontains(aws_iam_policy.role["function-thumbs"].policy, "shop-mail")
    error_message = "GetQueueAttributes for the event source, and nothing of other queues."
  }
}

run "a_description_that_was_changed_by_hand_is_refused" {
  command = plan

  variables {
    cloudq = merge(jsondecode(file("tests/cloudq.json")).cloudq, { namespace = "other" })
  }

  expect_failures = [var.cloudq]
}

run "a_function_that_nobody_declared_is_refused" {
  command = plan

  variables {
    functions = { mail = { target = "arn", identity = "role" } }
  }

  expect_failures = [terraform_data.description]
}
