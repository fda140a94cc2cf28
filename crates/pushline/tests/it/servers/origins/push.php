<?php
// A receiver on PHP: records each request in a file, then answers.
$line = $_SERVER['SERVER_PROTOCOL'] . "\t" . $_SERVER['HTTP_WEBHOOK_ID'] . "\t" . file_get_contents('php://input') . "\n";
file_put_contents($_SERVER['RECORD'], $line, FILE_APPEND | LOCK_EX);
