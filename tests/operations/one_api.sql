-- Tables as GORM makes them of the structs in songquanpeng/one-api's model/ folder (v0.6.10).
CREATE TABLE `channels` (`id` integer PRIMARY KEY AUTOINCREMENT,`type` integer DEFAULT 0,`key` text,`status` integer
  DEFAULT 1,`name` text,`weight` integer DEFAULT 0,`created_time` bigint,`test_time` bigint,`response_time` integer,
  `base_url` text DEFAULT "",`other` text,`balance` real,`balance_updated_time` bigint,`models` text,`group`
  varchar(32) DEFAULT "default",`used_quota` bigint DEFAULT 0,`model_mapping` varchar(1024) DEFAULT "",`priority`
  bigint DEFAULT 0,`config` text,`system_prompt` text);
CREATE TABLE `tokens` (`id` integer PRIMARY KEY AUTOINCREMENT,`user_id` integer,`key` char(48),`status` integer
  DEFAULT 1,`name` text,`created_time` bigint,`accessed_time` bigint,`expired_time` bigint DEFAULT -1,`remain_quota`
  bigint DEFAULT 0,`unlimited_quota` numeric DEFAULT false,`used_quota` bigint DEFAULT 0,`models` text,`subnet` text
  DEFAULT "");
CREATE TABLE `users` (`id` integer PRIMARY KEY AUTOINCREMENT,`username` text UNIQUE,`password` text NOT NULL,
  `display_name` text,`role` integer DEFAULT 1,`status` integer DEFAULT 1,`email` text,`github_id` text,`wechat_id`
  text,`lark_id` text,`oidc_id` text,`access_token` char(32),`quota` bigint DEFAULT 0,`used_quota` bigint DEFAULT 0,
  `request_count` integer DEFAULT 0,`group` varchar(32) DEFAULT "default",`aff_code` varchar(32),`inviter_id` integer);
CREATE TABLE `options` (`key` text PRIMARY KEY,`value` text);
CREATE TABLE `redemptions` (`id` integer PRIMARY KEY AUTOINCREMENT,`user_id` integer,`key` char(32),`quota` bigint);
CREATE TABLE `abilities` (`group` varchar(32),`model` text,`channel_id` integer,`enabled` numeric,`priority` bigint,
  PRIMARY KEY (`group`,`model`,`channel_id`));
CREATE TABLE `logs` (`id` integer PRIMARY KEY AUTOINCREMENT,`user_id` integer,`content` text);
