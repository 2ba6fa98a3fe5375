"""What Lambda loads: the handler is `function.handler`."""

from resize import app

from cloudq_sqs import lambda_handler

handler = lambda_handler(app)
